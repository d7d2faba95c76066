"""Temperature scaling (Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2).

Every logit is divided by one number T > 0. The order of the classes stays, so that the likeliest symbols, and with them a greedy
reading, stay; T > 1 makes a recognizer less sure of them.
"""

from dataclasses import replace

from torch import Tensor

from models.decoders.decoded import Decoded
from models.precision import at_least_float32


def at_temperature(decoded: Decoded, temperature: float) -> Decoded:
    """The outputs with their logits divided by the temperature; branches that are logits, too (as many classes), so that a decoder
    which compares its directions compares like with like."""
    if temperature == 1:
        return decoded
    classes = decoded.logits.shape[-1]
    branches = {name: branch / temperature if branch.shape[-1] == classes else branch for name, branch in decoded.branches.items()}
    return replace(decoded, logits=decoded.logits / temperature, branches=branches)


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(…, classes) -> log-softmax of logits / temperature, at least in float32: a search adds up dozens of them."""
    return (at_least_float32(logits) / temperature).log_softmax(-1)
