"""What a recorded training step gave, beside ours."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.recognizer import Recognizer


def training_pairs(recognizer: Recognizer, published_name: Callable[[Recognizer, str], str], loss: Tensor,
                   recorded: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """The loss of a training step, if it was recorded, and every gradient's norm, ours and recorded; the gradients are taken here."""
    loss.backward()
    expected = recorded["output"]
    norms = expected["train_grad_norm"]
    ours = torch.stack([parameter.grad.norm() for parameter in recognizer.parameters()])
    theirs = [float(norms[published_name(recognizer, name)]) for name, _ in recognizer.named_parameters()]
    found = {f"gradient norms of {len(theirs)} parameters": (ours, torch.tensor(theirs, dtype=torch.float64))}
    if "train_loss" in expected:
        found["training loss"] = (loss.detach(), torch.as_tensor(expected["train_loss"], dtype=torch.float64))
    return found
