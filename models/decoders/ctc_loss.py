"""The loss of connectionist temporal classification (Graves et al., ICML 2006, §4.1), on the device alone.

PyTorch's own takes the lengths on the host, so that on a GPU every step would wait for the device. The forward variables alpha_t(s) of
equations 5 to 8 in log space; autograd gives what the backward variables would.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IMPOSSIBLE = -1e30  # the log of no probability: finite, so that gradients stay numbers


def ctc_loss(log_probabilities: Tensor, targets: Tensor, blank: int = 0) -> Tensor:
    """The mean over the batch of `ctc_losses`. Equal to F.ctc_loss(..., zero_infinity=True) with all frames of every sample."""
    return ctc_losses(log_probabilities, targets, blank).mean()


def string_losses(log_probabilities: Tensor, targets: Tensor, blank: int = 0) -> Tensor:
    """`ctc_losses`, by PyTorch's own where no host has to wait for a device: on a CPU it is faster."""
    if log_probabilities.is_cuda:
        return ctc_losses(log_probabilities, targets, blank)
    lengths = (targets != blank).sum(1)
    frames = torch.full_like(lengths, len(log_probabilities))
    losses = F.ctc_loss(log_probabilities, targets, frames, lengths, blank=blank, reduction="none", zero_infinity=True)
    return losses / lengths.clamp(min=1)


def ctc_losses(log_probabilities: Tensor, targets: Tensor, blank: int = 0) -> Tensor:
    """(n,): each sample's negative log likelihood divided by its length; 0 for what cannot be written.

    Args:
        log_probabilities: (frames, n, classes).
        targets: (n, L) int64, padded with the blank.
    """
    lengths = (targets != blank).sum(1)  # (n,)
    path = F.pad(F.pad(targets.unsqueeze(2), (1, 0), value=blank).flatten(1), (0, 1), value=blank)  # (n, 2 L + 1) l'
    emitted = log_probabilities.gather(2, path.expand(len(log_probabilities), -1, -1))  # (frames, n, 2 L + 1) log y_t(l'_s)
    may_skip = F.pad((path[:, 2:] != blank) & (path[:, 2:] != path[:, :-2]), (2, 0))  # (n, 2 L + 1): the blank before s may be left out
    skip = torch.zeros_like(emitted[0]).masked_fill(~may_skip, IMPOSSIBLE)
    first = torch.arange(path.shape[1], device=path.device) < 2
    alpha = emitted[0] + torch.zeros_like(emitted[0]).masked_fill(~first, IMPOSSIBLE)
    for frame in emitted[1:].unbind(0):
        before = F.pad(alpha[:, :-1], (1, 0), value=IMPOSSIBLE)
        skipped = F.pad(alpha[:, :-2], (2, 0), value=IMPOSSIBLE) + skip
        alpha = torch.logsumexp(torch.stack([alpha, before, skipped]), 0) + frame
    last_blank = (2 * lengths).unsqueeze(1)
    last_character = alpha.gather(1, (last_blank - 1).clamp(min=0)).masked_fill(last_blank == 0, IMPOSSIBLE)
    losses = -torch.logsumexp(torch.cat([alpha.gather(1, last_blank), last_character], 1), 1)  # (n,)
    return losses.masked_fill(losses > -IMPOSSIBLE / 2, 0) / lengths.clamp(min=1)
