"""Instance mappings: a memory's frames become the instances that a contrast compares (SeqCLR, Aberdam et al., CVPR 2021, section 3.3)."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from models.recognizer import Recognizer


def columns_of(recognizer: Recognizer, memory: Tensor) -> Tensor:
    """(n, frames, width) -> (n, columns, width): one frame for each column of the image, the mean over the rows of a memory that is a map."""
    return memory if recognizer.memory_rows == 1 and not recognizer.class_tokens else recognizer.cells(memory).mean(1)


def row_by_row(recognizer: Recognizer, memory: Tensor) -> Tensor:
    """(n, frames, width) -> (n, cells, width): the memory's cells, a row behind the other, whatever stands before them left out."""
    return memory[:, recognizer.class_tokens:]


def column_by_column(recognizer: Recognizer, memory: Tensor) -> Tensor:
    """(n, frames, width) -> (n, cells, width): the memory's cells, a column behind the other."""
    return recognizer.cells(memory).transpose(1, 2).flatten(1, 2)


def windows_of(frames: Tensor, windows: int) -> Tensor:
    """(n, frames, width) -> (n, windows, width): means over windows of equal width, which overlap where they do not divide the frames."""
    return F.adaptive_avg_pool1d(frames.transpose(1, 2), windows).transpose(1, 2)


def memory_of_one(recognizer: Recognizer, *, visual: bool = False) -> Tensor:
    """The memory of one black image, (1, frames, width), or its visual features. Asked of a copy: no mode or statistic changes."""
    probe = copy.deepcopy(recognizer).eval()
    parameter = next(probe.parameters())
    image = torch.zeros(1, 3, recognizer.height, recognizer.width, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        return probe.visual(image) if visual else probe.encode(image)
