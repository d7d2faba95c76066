"""Pictures for the tests of views: words like those that crops show, and the way to Pillow and back."""

import numpy as np
import torch
from PIL import Image, ImageDraw

HEIGHT, WIDTH = 32, 100


def word_images(n: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """n pictures of words as crops show them: coloured letters on a shaded, noisy ground."""
    noise = np.random.default_rng(7)
    pictures = []
    for number in range(n):
        ground = noise.integers(40, 200, 3) + np.linspace(0, 50, width)[None, :, None]
        picture = Image.fromarray((ground + noise.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8))
        ink = tuple(int(level) for level in noise.integers(0, 256, 3))
        ImageDraw.Draw(picture).text((6, height // 4), f"Word {number:03d}", fill=ink)
        pictures.append(np.asarray(picture))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def as_pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).numpy())


def from_pillow(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
