"""Images as patches, for methods that hide some of a vision transformer's and ask for them: cut, normalised, drawn."""

import torch
from torch import Tensor, nn

from models.encoders.vit import ViT
from models.objectives.checks import check_one_width
from models.recognizer import Recognizer


def vision_transformer(objective: str, recognizer: Recognizer) -> ViT:
    """The recognizer's encoder; its decoder and sequence stage ask for no gradient from then on. ValueError for another encoder."""
    if not isinstance(recognizer.encoder, ViT) or recognizer.rectifier is not None:
        raise ValueError(f"{objective} expects a recognizer whose encoder is a vision transformer, found {recognizer.name or type(recognizer.encoder).__name__}: "
                         "use vitstr or parseq")
    check_one_width(objective, recognizer, "whose patches are counted")
    recognizer.decoder.requires_grad_(False)
    recognizer.sequence.requires_grad_(False)
    return recognizer.encoder


def patches_of(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """(n, channels, H, W) -> (n, patches, pixels, channels), the patches row by row, and so the pixels of each."""
    high, wide = patch
    cut = images.unflatten(3, (-1, wide)).unflatten(2, (-1, high))  # (n, channels, rows, high, columns, wide)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def images_of(patches: Tensor, patch: tuple[int, int], rows: int) -> Tensor:
    """(n, patches, pixels, channels) -> (n, channels, H, W): `patches_of`, the other way."""
    cut = patches.unflatten(2, patch).unflatten(1, (rows, -1))  # (n, rows, columns, high, wide, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def drawn_order(images: int, patches: int, device: torch.device) -> Tensor:
    """(n, patches) int64: the patches of each image in an order of its own, drawn on the CPU, so that it is the same on every device."""
    return torch.rand(images, patches).argsort(1).to(device, non_blocking=True)


def hidden_in(order: Tensor, count: int) -> Tensor:
    """(n, patches) bool: the last `count` of each order."""
    return torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, order.shape[1] - count:], True)


def mean_of_hidden(errors: Tensor, hidden: Tensor) -> Tensor:
    """The mean of errors (n, patches) over the hidden patches; equally many in each image."""
    return (errors * hidden).sum() / hidden.sum()


def sinusoidal_map(rows: int, columns: int, width: int) -> Tensor:
    """(rows * columns, width) float64: sines and cosines of the column in the first half, of the row in the second. ValueError unless 4 divides the width."""
    if width % 4:
        raise ValueError(f"expected a width that 4 divides for a table of sines and cosines over a map, found {width}")
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    across, down = (torch.arange(count, dtype=torch.float64)[:, None] * frequencies for count in (columns, rows))
    of_columns, of_rows = (torch.cat([angles.sin(), angles.cos()], 1) for angles in (across, down))
    return torch.cat([of_columns.repeat(rows, 1), of_rows.repeat_interleave(columns, 0)], 1)


def initialise_as_vit(*modules: nn.Module) -> None:
    """Matrices Xavier uniform, biases 0, as MAE's code begins its linear layers."""
    for part in (part for module in modules for part in module.modules() if isinstance(part, nn.Linear)):
        nn.init.xavier_uniform_(part.weight)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
