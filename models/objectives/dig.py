"""DiG: hidden patches are drawn, and parts of words told apart, by one encoder at once.

Yang et al., "Reading and Writing: Discriminative and Generative Modeling for Self-Supervised Text Recognition", ACM MM 2022, arXiv 2207.00193:

    the encoder sees the image with int(0.7 L) of its L patches hidden behind a learned token, and an augmented view of it with none hidden
    L_gen = the mean over hidden patches of (decoded - pixels)^2, the pixels of each patch less their mean, over their deviation, channel by channel
    L_dis = ctr(q_1, k_2) + ctr(q_2, k_1),   ctr(q, k) = 2 tau mean of -log( exp(q.k / tau) / sum over the keys k' of all ranks of exp(q.k' / tau) )
    L = alpha_pixel L_gen + alpha_contrast L_dis,   1 and 0.1

q are the windows' means of the encoder's map (4 windows, each as high as the image), projected and predicted; k those of the moving average, projected.
The masked image's features pass a projection of their own before they are pooled. tau 0.2; the average's decay rises from 0.99 to 1 along half a cosine.

As in the authors' code: there is no norm behind the encoder's last block while it is pretrained (`final_norm=true` keeps it); projections are three linear layers
with BatchNorm, the last without parameters, the prediction two; the pixels' head is two linear layers, LayerNorm, GELU and a linear layer. The average
holds parameters alone, its batch statistics are those of what it sees. Their window transformer is off in the released configuration, and not built.
Otherwise than theirs the average moves behind the optimizer's step and not before the next keys, which gives the same keys.
"""


import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Batch, Losses, View
from models.objectives.byol import cosine_decay
from models.objectives.checks import check_decay, check_positive, check_steps, check_thresholds, check_weights
from models.objectives.distributed import everyones, rank_of
from models.objectives.image_vectors import normalised_mlp, spread
from models.objectives.moving_average import follow, follower
from models.objectives.patches import drawn_order, hidden_in, mean_of_hidden, patches_of, vision_transformer
from models.precision import at_least_float32, exactly
from models.recognizer import Recognizer


class DiG(nn.Module):
    """Draws hidden patches and contrasts windows. Of vision transformers alone (vitstr, parseq).

    mask_ratio: of the patches that are hidden. windows: of a word. temperature: tau. pixel_weight, contrastive_weight: alpha.
    ema_decay, ramp_steps: of the average; the steps of the run, over which it rises to 1; null: it stays.
    projection_width, hidden_width: of projections and prediction. pixel_width: of the pixels' head.
    view: the augmentation of the second view.

    The average starts as a copy: load pretrained weights before building this.
    """

    def __init__(self, recognizer: Recognizer, *, mask_ratio: float = 0.7, windows: int = 4, temperature: float = 0.2, pixel_weight: float = 1.0,
                 contrastive_weight: float = 0.1, ema_decay: float = 0.99, ramp_steps: int | None = None, projection_width: int = 256,
                 hidden_width: int = 4096, pixel_width: int = 192, final_norm: bool = False,
                 view: View = "seqclr") -> None:
        super().__init__()
        encoder = vision_transformer("dig", recognizer)
        check_positive("dig", {"windows": windows, "temperature": temperature, "projection_width": projection_width, "hidden_width": hidden_width,
                               "pixel_width": pixel_width})
        check_thresholds("dig", {"mask_ratio": mask_ratio})
        check_weights("dig", {"pixel_weight": pixel_weight, "contrastive_weight": contrastive_weight})
        check_decay("dig", "ema_decay", ema_decay, 0.99)
        check_steps("dig", "ramp_steps", ramp_steps, needed=False)
        self.hidden = int(encoder.rows * encoder.columns * mask_ratio)
        if not self.hidden or windows > encoder.columns:
            raise ValueError(f"dig expects some of {encoder.rows * encoder.columns} patches to hide and at most {encoder.columns} windows, found a mask_ratio of "
                             f"{mask_ratio} and {windows} windows")
        self.recognizer = recognizer
        if not final_norm:
            encoder.norm.requires_grad_(False)  # it is not used
        width = encoder.out_channels
        self.stand_in = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.stand_in, std=0.02)
        self.masked_projection = normalised_mlp([width, 512, 512, width], "norm")
        self.projection = normalised_mlp([width, hidden_width, hidden_width, projection_width], "norm")
        self.predictor = normalised_mlp([projection_width, hidden_width, projection_width], "norm")
        self.pixels = nn.Sequential(nn.Linear(width, pixel_width, bias=False), nn.Linear(pixel_width, pixel_width, bias=False),
                                    nn.LayerNorm(pixel_width, eps=1e-6), nn.GELU(),
                                    nn.Linear(pixel_width, recognizer.channels * encoder.patch[0] * encoder.patch[1]))
        self.average = nn.ModuleList(follower(part) for part in self._averaged())
        self.average_stand_in = nn.Parameter(self.stand_in.detach().clone(), requires_grad=False)
        self.order, self.windows, self.temperature, self.final_norm = drawn_order, windows, temperature, final_norm
        self.pixel_weight, self.contrastive_weight = pixel_weight, contrastive_weight
        self.ema_decay, self.ramp_steps = ema_decay, ramp_steps
        self.views = {"unlabeled": ("none", view)}

    def _averaged(self) -> list[nn.Module]:
        return [self.recognizer.encoder, self.masked_projection, self.projection]

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose unlabeled part has two views."""
        image, augmented = (self.recognizer._as_channels(view) for view in batch.unlabeled.views)
        encoder = self.recognizer.encoder
        order = self.order(len(image), encoder.rows * encoder.columns, image.device)
        hidden = hidden_in(order, self.hidden)  # (n, patches) bool
        features, projected = self._projected(self._averaged(), self.stand_in, image, augmented, hidden)
        queries = [self.predictor(each) for each in projected]  # (n * windows, projection_width) each
        with torch.no_grad():
            _, keys = self._projected(list(self.average), self.average_stand_in, image, augmented, hidden)
        first, matched = self._contrast(queries[0], keys[1])
        second, _ = self._contrast(queries[1], keys[0])
        errors = (at_least_float32(self.pixels(features)) - self.targets(image)).square().mean(-1)  # (n, patches)
        reconstruction = mean_of_hidden(errors, hidden)
        total = self.pixel_weight * reconstruction + self.contrastive_weight * (first + second)
        return Losses(total, {"reconstruction_loss": reconstruction.detach(), "contrastive_loss": (first + second).detach(),
                              "matched_fraction": matched, "spread": spread(queries[0])})

    def _projected(self, parts: list[nn.Module], stand_in: Tensor, image: Tensor, augmented: Tensor, hidden: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The masked image's features (n, patches, width), and the windows of both views, (n * windows, projection_width) each."""
        encoder, masked_projection, projection = parts
        both = encoder.features(torch.cat([image, augmented]), hidden=torch.cat([hidden, torch.zeros_like(hidden)]), stand_in=stand_in)
        both = (encoder.norm(both) if self.final_norm else both)[:, self.recognizer.class_tokens:]  # (2 n, patches, width)
        masked, whole = both.chunk(2)
        moved = masked_projection(masked.flatten(0, 1)).unflatten(0, masked.shape[:2])
        projected = projection(self._windows(torch.cat([moved, whole])).flatten(0, 1))  # both views share a batch's statistics
        return masked, list(projected.chunk(2))

    def _windows(self, cells: Tensor) -> Tensor:
        """(n, patches, width) -> (n, windows, width)."""
        grid = cells.transpose(1, 2).unflatten(2, (self.recognizer.encoder.rows, -1))  # (n, width, rows, columns)
        return F.adaptive_avg_pool2d(grid, (1, self.windows)).flatten(2).transpose(1, 2)

    def _contrast(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """ctr of rows (m, width) with their partners, and how often the partner is the nearest; scalars."""
        with exactly(queries):
            queries, keys = (F.normalize(at_least_float32(rows), dim=1) for rows in (queries, keys))
            similarity = queries @ everyones(keys).t() / self.temperature  # (m, ranks * m)
            partner = rank_of() * len(queries) + torch.arange(len(queries), device=queries.device)
            loss = 2 * self.temperature * F.cross_entropy(similarity, partner)
        return loss, (similarity.detach().argmax(1) == partner).to(queries.dtype).mean()

    def targets(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, patches, pixels * channels)."""
        cut = patches_of(images, self.recognizer.encoder.patch) / 2 + 0.5  # (n, patches, pixels, channels) in [0, 1]
        return ((cut - cut.mean(2, keepdim=True)) / (cut.std(2, keepdim=True) + 1e-6)).flatten(2)

    def after_step(self, step: int) -> None:
        """Moves the average, as far as the schedule says for the step, which counts from 1."""
        decay = self.ema_decay if self.ramp_steps is None else cosine_decay(self.ema_decay, step - 1, self.ramp_steps)
        for average, part in zip(self.average, self._averaged(), strict=True):
            follow(average, part, decay, buffers=False)
        with torch.no_grad():
            self.average_stand_in.lerp_(self.stand_in, 1 - decay)
