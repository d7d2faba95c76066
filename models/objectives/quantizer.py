"""Product quantization with a straight-through Gumbel softmax, as in wav2vec 2.0 (Baevski et al., NeurIPS 2020, section 2 and equations 1 and 4).

    G codebooks of V entries; logits = Linear(x);  p = softmax((logits + Gumbel noise) / temperature)
    forwards the likeliest entry of each codebook, backwards the gradient of p; the chosen entries stand side by side
    temperature = max(start * factor^updates, least)
In eval mode the likeliest entry of the logits is taken, without noise. As in its code the entries begin uniform in [0, 1), the logits' weights as
N(0, 1) with biases 0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.objectives.distributed import gather
from models.precision import at_least_float32, exactly


@dataclass
class Quantized:
    """What n vectors became."""

    vectors: Tensor  # (n, width)
    codes: Tensor  # (n, codebooks) int64: the entries that were chosen
    probabilities: Tensor  # (codebooks, entries): softmax of the logits, without noise or temperature, on average over the vectors of all ranks


class Quantizer(nn.Module):
    """Vectors (n, in_width) -> entries of the codebooks, (n, width)."""

    def __init__(self, in_width: int, width: int, *, codebooks: int = 2, entries: int = 256, start: float = 2.0, least: float = 0.5,
                 factor: float = 0.999995) -> None:
        """ValueError where the codebooks do not divide the width."""
        super().__init__()
        if width % codebooks:
            raise ValueError(f"expected a width that {codebooks} codebooks divide, found {width}")
        self.codebooks, self.count = codebooks, entries
        self.entries = nn.Parameter(torch.rand(codebooks, entries, width // codebooks))
        self.logits = nn.Linear(in_width, codebooks * entries)
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # of the optimizer; counted by whoever owns the quantizer
        self.start, self.least, self.factor = start, least, factor

    def temperature(self) -> Tensor:
        """A float64 scalar: where it stands after `updates`."""
        return (self.start * torch.pow(torch.tensor(self.factor, dtype=torch.float64, device=self.updates.device), self.updates)).clamp(min=self.least)

    def forward(self, vectors: Tensor) -> Quantized:
        """(n, in_width) -> the entries, in float32 at least."""
        with exactly(vectors):
            logits = self.logits(at_least_float32(vectors)).unflatten(1, (self.codebooks, self.count))  # (n, codebooks, entries)
            chosen = self._chosen(logits)  # (n, codebooks, entries): one-hot
            picked = torch.einsum("nge,gew->ngw", chosen, self.entries).flatten(1)  # (n, width)
            mean, _ = gather(logits.softmax(2).mean(0).unsqueeze(0))  # (ranks, codebooks, entries)
        return Quantized(picked, chosen.detach().argmax(2), mean.mean(0))

    def codes(self, vectors: Tensor) -> Tensor:
        """(n, in_width) -> (n, codebooks) int64: the likeliest entries, without noise. Asks nothing of other ranks."""
        with exactly(vectors):
            return self.logits(at_least_float32(vectors)).unflatten(1, (self.codebooks, self.count)).argmax(2)

    def _chosen(self, logits: Tensor) -> Tensor:
        if not self.training:
            return _one_hot(logits)
        soft = ((logits + gumbel_noise(logits)) / self.temperature().to(logits.dtype)).softmax(2)
        return _one_hot(soft) - soft.detach() + soft


def gumbel_noise(like: Tensor) -> Tensor:
    """Draws of the standard Gumbel distribution, in the shape of another tensor."""
    return -torch.empty_like(like).exponential_().log()


def _one_hot(values: Tensor) -> Tensor:
    """1 where the last dimension has its largest value, 0 elsewhere. F.one_hot would wait for the device."""
    return torch.zeros_like(values).scatter(-1, values.argmax(-1, keepdim=True), 1)


def perplexities(probabilities: Tensor) -> Tensor:
    """(codebooks, entries) -> (codebooks,): exp of the entropy, how many entries are in use."""
    return (-(probabilities * (probabilities + 1e-7).log()).sum(1)).exp()


def diversity(probabilities: Tensor, form: str = "perplexity") -> Tensor:
    """A scalar that falls as more entries of (codebooks, entries) are in use.

    perplexity: (G V - sum of the perplexities) / (G V), 0 for uniform use (wav2vec 2.0's code). entropy: minus the sum of the entropies / (G log V),
    -1 for uniform use and 0 where one entry takes all.
    """
    codebooks, entries = probabilities.shape
    if form == "perplexity":
        return (codebooks * entries - perplexities(probabilities).sum()) / (codebooks * entries)
    return (probabilities * (probabilities + 1e-7).log()).sum() / (codebooks * math.log(entries))
