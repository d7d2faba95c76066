"""Whether an encoder that is pretrained on images alone is alive, and whether it learns text: asked of some hundred images, in seconds.

A contrastive loss can fall while nothing is learned that reading needs: two views of a word are told from other words by their background. So two kinds
of numbers are asked: whether features have collapsed, and what they know.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor

from models.recognizer import Recognizer
from pipelines.augmentation.views import augment
from pipelines.evaluation.metrics import similarity
from pipelines.reading.batches import evaluating

SEED = 0  # of the views, and of the halves: the same for every model
RIDGE = 1e-2  # of the regression, as a share of the features' mean variance
PARTS = 8  # of a word, along its width, in which words are compared


@dataclass(frozen=True)
class Features:
    """Of an encoder's memory on a set of images.

    effective_rank: exp of the entropy of the singular values of the centred frames (Garrido et al., "RankMe", ICML 2023): 1 if all frames lie on a line, at
        most the memory's width.
    alignment: the mean squared distance between the unit vectors of two views of an image; uniformity: log of the mean of exp(-2 squared distance) between
        those of different images (Wang and Isola, ICML 2020). Alignment falls as views become alike, uniformity as images spread out; both 0: all is alike.
    background: how well the mean colour of an image's border is predicted from its vector, R squared on the half that the regression has not seen. A shortcut
        if it is near 1 while neighbours do not resemble each other.
    neighbour_similarity: 1 - normalised edit distance between the labels of an image and of its nearest neighbour, on average, less that of any two images: 0
        if features know nothing of text. Only where there are labels, which training does not see.
    """

    effective_rank: float
    alignment: float
    uniformity: float
    background: float
    neighbour_similarity: float | None = None

    def numbers(self) -> dict[str, float]:
        """By name; what could not be asked is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def features(recognizer: Recognizer, images: Tensor, labels: Sequence[str | None] = (), batch_size: int = 256) -> Features:
    """Ask an encoder, on its device, about images (n, 3, height, width) uint8 of its own shape, at least 4; its modes are restored."""
    plain = memories(recognizer, images, "none", batch_size)  # (n, PARTS, width)
    first, second = (F.normalize(memories(recognizer, images, "seqclr", batch_size, seed).mean(1), dim=1) for seed in (SEED, SEED + 1))
    distances = torch.cdist(first, first).square()
    others = ~torch.eye(len(first), dtype=torch.bool)
    return Features(effective_rank(plain.flatten(0, 1)), (first - second).square().sum(1).mean().item(),
                    (-2 * distances[others]).exp().mean().log().item(), predictability(plain.mean(1), border_colours(images)),
                    neighbour_similarity(plain, labels))


def memories(recognizer: Recognizer, images: Tensor, view: str, batch_size: int, seed: int = SEED) -> Tensor:
    """(n, PARTS, width) float64 on the host: the memory of a view of the images, averaged over parts of the word's width."""
    device, generator, found = next(recognizer.parameters()).device, torch.Generator().manual_seed(seed), []
    with evaluating(recognizer), torch.inference_mode():
        for part in images.split(batch_size):
            columns = recognizer.cells(recognizer.encode(augment(part.to(device), view, generator))).mean(1)  # (n, columns, width)
            found.append(F.adaptive_avg_pool1d(columns.float().transpose(1, 2), PARTS).transpose(1, 2).double().cpu())
    return torch.cat(found)


def effective_rank(rows: Tensor) -> float:
    """Of rows (n, width): between 0, if all are alike, and min(n, width)."""
    values = torch.linalg.svdvals(rows - rows.mean(0))
    shares = values / values.sum().clamp(min=1e-12)
    return (-(shares * (shares + 1e-12).log()).sum()).exp().item() if values.sum() > 1e-9 else 0.0


def border_colours(images: Tensor) -> Tensor:
    """(n, 3, H, W) uint8 -> (n, 3) float64: the mean of the outermost eighth of the rows, above and below, where the ground is."""
    edge = max(1, images.shape[2] // 8)
    return torch.cat([images[:, :, :edge], images[:, :, -edge:]], 2).double().mean((2, 3)).cpu()


def predictability(inputs: Tensor, targets: Tensor) -> float:
    """R squared of a ridge regression (n, width) -> (n, k), fitted on every other row and asked on the rest, the mean over both ways and all targets."""
    found = []
    for turn in range(2):
        fit, ask = (slice(turn, None, 2), slice(1 - turn, None, 2))
        centre, middle = inputs[fit].mean(0), targets[fit].mean(0)
        x, y = inputs[fit] - centre, targets[fit] - middle
        gram = x.t() @ x
        weights = torch.linalg.solve(gram + (RIDGE * gram.diagonal().mean() + 1e-9) * torch.eye(len(gram), dtype=gram.dtype), x.t() @ y)
        errors = (targets[ask] - middle - (inputs[ask] - centre) @ weights).square().sum(0)
        spread = (targets[ask] - targets[ask].mean(0)).square().sum(0)
        varied = spread > len(targets[ask])  # by more than a grey level: what is the same everywhere is nothing to predict
        found.append(((1 - errors / spread.clamp(min=1e-9)).clamp(min=-1) * varied).mean().item())
    return mean(found)


def neighbour_similarity(parts: Tensor, labels: Sequence[str | None]) -> float | None:
    """Of images that have a label; None where fewer than 4 have one. parts: (n, PARTS, width)."""
    known = [number for number, label in enumerate(labels) if label]
    if len(known) < 4:
        return None
    texts = [labels[number].lower() for number in known]
    unit = F.normalize(parts[known] - parts[known].mean(0), dim=2).flatten(1)
    near = (unit @ unit.t()).fill_diagonal_(-torch.inf).argmax(1).tolist()
    steps = sorted({max(1, len(texts) * part // 9) for part in range(1, 9)})
    anyone = [similarity(text, texts[(number + step) % len(texts)]) for step in steps for number, text in enumerate(texts)]
    return mean(similarity(text, texts[other]) for text, other in zip(texts, near, strict=True)) - mean(anyone)
