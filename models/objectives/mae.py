"""MAE on words: three quarters of an image are left out, and drawn again from the rest.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377; on words MAERec (Jiang et al., "Revisiting scene text recognition:
a data perspective", ICCV 2023):

    the encoder sees int(L (1 - 0.75)) of the L patches, drawn for each image, with their positions, and the class token if it has one
    the decoder sees what the encoder made of them, a learned token in each place that is missing, and fixed sines and cosines of all places
    L = the mean over the missing patches of (decoded - pixels)^2,  the pixels of each patch less their mean, over their deviation

The decoder has 8 blocks of width 512 with 16 heads, and is thrown away afterwards, as is the recognizer's own decoder: the encoder alone moves on. MAERec
trains on images as they are, without augmentation.

As in the authors' code: var(…) divides by one pixel less, and 1e-6 is added to it; `normalise_pixels=false` asks for the pixels themselves. Otherwise than
theirs the encoder keeps the positions and the first weights of its family (ViTSTR, PARSeq), which learn their positions.
"""

from functools import partial

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.encoders.vit import Block
from models.objectives.checks import check_positive, check_thresholds
from models.objectives.patches import drawn_order, hidden_in, initialise_as_vit, mean_of_hidden, patches_of, sinusoidal_map, vision_transformer
from models.precision import Table, at_least_float32
from models.recognizer import Recognizer


class MAE(nn.Module):
    """Draws what is missing of images. Of vision transformers alone (vitstr, parseq).

    mask_ratio: of the patches that are left out. decoder_width, decoder_depth, decoder_heads: of the decoder.
    """

    views = {"unlabeled": ("none",)}

    def __init__(self, recognizer: Recognizer, *, mask_ratio: float = 0.75, decoder_width: int = 512, decoder_depth: int = 8, decoder_heads: int = 16,
                 normalise_pixels: bool = True) -> None:
        super().__init__()
        encoder = vision_transformer("mae", recognizer)
        check_positive("mae", {"decoder_width": decoder_width, "decoder_depth": decoder_depth, "decoder_heads": decoder_heads})
        check_thresholds("mae", {"mask_ratio": mask_ratio})
        patches = encoder.rows * encoder.columns
        self.visible = int(patches * (1 - mask_ratio))
        if not 0 < self.visible < patches:
            raise ValueError(f"mae expects a mask_ratio that leaves some of {patches} patches and hides some, found {mask_ratio}: the paper's is 0.75")
        self.recognizer, self.normalise_pixels, self.order = recognizer, normalise_pixels, drawn_order
        self.embed = nn.Linear(encoder.out_channels, decoder_width)
        self.missing = nn.Parameter(torch.empty(decoder_width))
        nn.init.normal_(self.missing, std=0.02)
        self.positions = Table(partial(sinusoidal_map, encoder.rows, encoder.columns, decoder_width))
        self.blocks = nn.Sequential(*(Block(decoder_width, decoder_heads) for _ in range(decoder_depth)))
        self.norm = nn.LayerNorm(decoder_width)
        self.pixels = nn.Linear(decoder_width, recognizer.channels * encoder.patch[0] * encoder.patch[1])
        initialise_as_vit(self.embed, self.blocks, self.pixels)

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose unlabeled part has one view."""
        (images,) = batch.unlabeled.views
        order = self.order(len(images), self.recognizer.encoder.rows * self.recognizer.encoder.columns, images.device)
        decoded, hidden = self.reconstruct(images, order)
        errors = (at_least_float32(decoded) - self.targets(images)).square().mean(-1)  # (n, patches)
        loss = mean_of_hidden(errors, hidden)
        return Losses(loss, {"reconstruction_loss": loss.detach()})

    def reconstruct(self, images: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 3, H, W), of whose patches the first in an order (n, patches) are seen -> all patches, (n, patches, pixels * channels), and which
        were hidden, (n, patches) bool."""
        encoder = self.recognizer.encoder
        seen = encoder(self.recognizer._as_channels(images), kept=order[:, :self.visible])  # (n, class token + visible, width)
        embedded = at_least_float32(self.embed(seen))  # so that what the blocks add up stays exact under mixed precision
        before, cells = embedded.split([embedded.shape[1] - self.visible, self.visible], 1)
        everywhere = self.missing.to(cells.dtype).expand(len(images), order.shape[1], -1)
        places = everywhere.scatter(1, order[:, :self.visible, None].expand(-1, -1, cells.shape[2]), cells)
        tokens = torch.cat([before, places + self.positions().to(places.dtype)], 1)
        decoded = self.pixels(self.norm(self.blocks(tokens)))[:, before.shape[1]:]
        return decoded, hidden_in(order, order.shape[1] - self.visible)

    def targets(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) -> (n, patches, pixels * channels)."""
        cut = patches_of(self.recognizer._as_channels(images), self.recognizer.encoder.patch).flatten(2)
        if not self.normalise_pixels:
            return cut
        return (cut - cut.mean(-1, keepdim=True)) / (cut.var(-1, keepdim=True) + 1e-6).sqrt()

    def after_step(self, step: int) -> None:
        """Nothing: the optimizer's step is the whole of it."""
