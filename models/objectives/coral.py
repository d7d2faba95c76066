"""Deep CORAL: how far the covariances of two sets of vectors are apart (Sun and Saenko, ECCV 2016 workshops, arXiv 1607.01719, equation 1)."""

from torch import Tensor

from models.precision import at_least_float32, exactly


def coral(source: Tensor, source_mask: Tensor, unlabeled: Tensor, unlabeled_mask: Tensor,
          form: str = "paper") -> Tensor:
    """L_da between the masked vectors of source (n, steps, d) and unlabeled (m, steps', d): a scalar.

    Zero, with zero gradients, where either mask (n, steps), (m, steps') holds no character.
    """
    width = source.shape[-1]
    with exactly(source):
        source_scatter, source_count = _scatter(source, source_mask)
        unlabeled_scatter, unlabeled_count = _scatter(unlabeled, unlabeled_mask)
        if form == "paper":
            source_covariance = source_scatter / (source_count - 1).clamp(min=1)  # (d, d)
            unlabeled_covariance = unlabeled_scatter / (unlabeled_count - 1).clamp(min=1)
            distance = (source_covariance - unlabeled_covariance).square().sum()
        else:
            distance = (source_scatter - unlabeled_scatter).square().mean()
        enough = (source_count >= 1) & (unlabeled_count >= 1)
        return enough * distance / (4 * width**2)


def _scatter(vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(n, steps, d) -> the sum over the masked vectors of (x - mean)(x - mean)^T, (d, d), and how many they are."""
    vectors = at_least_float32(vectors).flatten(0, 1)  # (n * steps, d)
    weights = mask.flatten().to(vectors.dtype).unsqueeze(1)  # (n * steps, 1)
    count = weights.sum()
    mean = (vectors * weights).sum(0) / count.clamp(min=1)  # (d,)
    centred = (vectors - mean) * weights
    return centred.t() @ centred, count
