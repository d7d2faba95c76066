"""The vision transformer (Dosovitskiy et al., ICLR 2021), the encoder of ViTSTR (Atienza, ICDAR 2021) and PARSeq (Bautista and Atienza,
ECCV 2022), numbered as in its paper:

    z_0  = [class token, patches E] + positions            (1)
    z'_l = MSA(LN(z_l-1)) + z_l-1                          (2)
    z_l  = MLP(LN(z'_l)) + z'_l                            (3)

Where (4) classifies the class token alone, here all tokens of LN(z_L) are the memory: ViTSTR writes a symbol at each of the first ones,
and PARSeq has no class token. As in DeiT and in both papers' code nothing is dropped out, LN has epsilon 1e-6, and MSA's three projections
are one. Modules and parameters have the names of the published checkpoints. Deviation: images narrower than the built width are read with
the left columns of the position table.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Patches(nn.Module):
    """(n, channels, H, W) -> (n, patches, width): one token for each patch, row by row."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, patches, width)."""
        return self.proj(images).flatten(2).transpose(1, 2)


class SelfAttention(nn.Module):
    """Every token looks at every token, in `heads` subspaces."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, tokens, width) -> (n, tokens, width)."""
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(queries, keys, values)  # (n, heads, tokens, width / heads)
        return self.proj(seen.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, tokens, width) -> (n, tokens, width)."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Equations (2) and (3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width, 4 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, tokens, width) -> (n, tokens, width)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class ViT(nn.Module):
    """(n, channels, height, W) -> (n, tokens, width), the class token first if there is one: 128 patches of 4 x 8 for 32 x 128."""

    def __init__(self, channels: int = 3, *, image: tuple[int, int] = (32, 128), patch: tuple[int, int] = (4, 8), width: int = 384,
                 heads: int = 6, depth: int = 12, class_token: bool = True) -> None:
        """`image` and `patch`: (height, width). ValueError if the patches do not tile the image."""
        super().__init__()
        if image[0] % patch[0] or image[1] % patch[1]:
            raise ValueError(f"expected an image that patches of {patch[0]}x{patch[1]} tile, found {image[0]}x{image[1]}: "
                             "choose a height and a width that are multiples of the patch's")
        self.patch = tuple(patch)
        self.out_channels = width
        self.rows, self.columns = image[0] // patch[0], image[1] // patch[1]
        self.patch_embed = Patches(channels, width, self.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, int(class_token) + self.rows * self.columns, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self._initialise()

    def _initialise(self) -> None:
        """DeiT's: matrices and positions normal 0.02, biases 0, the class token near 0; the patches keep PyTorch's.

        DeiT truncates the normal at 2, a hundred deviations out: this one is not cut.
        """
        nn.init.normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def _positions(self, columns: int) -> Tensor:
        """(1, tokens, width): the position table, or, for images of fewer columns of patches, its left columns."""
        if columns == self.columns:
            return self.pos_embed
        before, patches = self.pos_embed.split([self.pos_embed.shape[1] - self.rows * self.columns, self.rows * self.columns], dim=1)
        left = patches.unflatten(1, (self.rows, self.columns))[:, :, :columns]  # (1, rows, columns, width)
        return torch.cat([before, left.flatten(1, 2)], 1)

    def forward(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """(n, channels, height, W) -> (n, tokens, width): `features`, normed."""
        return self.norm(self.features(images, kept))

    def features(self, images: Tensor, kept: Tensor | None = None, hidden: Tensor | None = None, stand_in: Tensor | None = None) -> Tensor:
        """(n, channels, height, W) -> (n, tokens, width). ValueError if W is no multiple of the patch's width, or above the built one.

        kept: (n, m) int64, the patches that are seen; the others are left out, so that there are as many tokens fewer.
        hidden: (n, patches) bool, the patches in whose place `stand_in`, (width,), is seen.
        """
        height, width = images.shape[2:]
        if height != self.rows * self.patch[0] or width % self.patch[1] or not 0 < width <= self.columns * self.patch[1]:
            raise ValueError(f"expected images of height {self.rows * self.patch[0]} and a width in steps of {self.patch[1]} up to "
                             f"{self.columns * self.patch[1]}, found {height}x{width}: resize them, or build the recognizer for that size")
        tokens = self.patch_embed(images)  # (n, patches, width)
        positions = self._positions(width // self.patch[1])
        first = positions.shape[1] - tokens.shape[1]  # 1 with a class token, else 0
        if hidden is not None:
            tokens = torch.where(hidden.unsqueeze(2), stand_in.to(tokens.dtype), tokens)
        tokens = tokens + positions[:, first:]
        if kept is not None:
            tokens = tokens.take_along_dim(kept.unsqueeze(2), 1)
        if self.cls_token is not None:
            tokens = torch.cat([(self.cls_token + positions[:, :1]).expand(tokens.shape[0], -1, -1), tokens], 1)  # (n, 1 + patches, width)
        return self.blocks(tokens)
