"""SemiMTR's vision pretraining: contrast on all words and recognition of the labeled ones, at once.

Aberdam et al., "Multimodal Semi-Supervised Learning for Text Recognition", 2022, arXiv 2205.03873, section 4.1.

    L = lambda_U (1 / 2BT') sum over labeled and unlabeled words of L_SeqCLR     (SeqCLR's contrast, see seqclr.py)
      + lambda_L (CE(view a) + CE(view b))                                       over the labeled words alone

The contrast is between instances of the backbone's map, behind its transformer: projected (by nothing, unless told otherwise) and averaged into 5
windows. Each view is a pass of its own, with its own dropout and batch statistics. The cross-entropies are means over all characters and end
symbols of the batch. Of ABINet the vision model alone is trained (backbone and vision head): language model and fusion rest.

In the authors' code (amazon-science/semimtr-text-recognition) the map's 8 x 32 cells stand in a row, one row of the map behind the other, and the 5
windows are taken of that: each is about 1.6 rows high and as wide as the word. `order="rows"` is theirs. `order="columns"` (ours) takes the cells column
by column, so that a window is a vertical slice of the word, as in SeqCLR. Heads: theirs are none, linear, bilstm and gated (their
`attn_linear_per_column`).

The two-stage form, their ablation, is this twice: `recognition_weight=0` on unlabeled words, then `contrastive_weight=0` on labeled ones.

Ours: it trains every recognizer; of those that are no ABINet the whole decoder, by its own loss. In distributed training the contrast is among the
instances of all ranks and ABINet's cross-entropy a mean over the symbols of all ranks, as in their one process.
"""

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses, View
from models.decoders.abinet import ABINetDecoder
from models.objectives.checks import check_one_width, check_positive, check_weights
from models.objectives.contrast import contrast
from models.objectives.distributed import over_all_ranks
from models.objectives.heads import Head
from models.objectives.heads import head as projection_head
from models.objectives.instances import column_by_column, memory_of_one, row_by_row, windows_of
from models.recognizer import Recognizer


class SemiMTRVision(nn.Module):
    """Pretrains a recognizer on labeled and unlabeled words at once.

    contrastive_weight, recognition_weight: lambda_U, lambda_L. A part of the batch that has no weight at all is not asked for.
    mapping: `window` averages the cells into `windows` instances, `frame` takes every cell.
    order: in which the cells of a map stand in a row.
    head, projection_width: between the map and the contrast; the width is the memory's where it is null.
    view: the augmentation of both views.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        contrastive_weight: float = 1.0,
        recognition_weight: float = 1.0,
        mapping: Literal["window", "frame"] = "window",
        windows: int = 5,
        order: Literal["rows", "columns"] = "rows",
        head: Head = "none",
        projection_width: int | None = None,
        temperature: float = 0.1,
        view: View = "semimtr",
    ) -> None:
        super().__init__()
        check_weights("semimtr_vision", {"contrastive_weight": contrastive_weight, "recognition_weight": recognition_weight})
        if contrastive_weight == recognition_weight == 0:
            raise ValueError("semimtr_vision expects a contrastive_weight or a recognition_weight above 0, found 0 for both")
        if getattr(recognizer.decoder, "iterations", 0) and recognition_weight:
            warnings.warn("semimtr_vision trains ABINet's vision model alone; with the recognizer's option iterations: 0 it is what reads, so that "
                          "validation sees it", stacklevel=2)
        check_positive("semimtr_vision", {"temperature": temperature})
        if contrastive_weight and recognition_weight:
            check_one_width("semimtr_vision", recognizer, "labeled and unlabeled in one batch")
        memory = memory_of_one(recognizer)
        cells, width = row_by_row(recognizer, memory).shape[1:]
        if not 0 < windows <= cells:
            raise ValueError(f"semimtr_vision expects 1 to {cells} windows, as many as the encoder gives cells, found {windows}: lower windows, or use "
                             "mapping=frame")
        self.recognizer = recognizer
        self._train_parts(recognition_weight > 0)
        self.head = projection_head(head, width, projection_width or width) if contrastive_weight else nn.Identity()
        self.contrastive_weight, self.recognition_weight = contrastive_weight, recognition_weight
        self.mapping, self.windows, self.order, self.temperature = mapping, windows, order, temperature
        views = {"labeled": (view, view), "unlabeled": (view, view)}
        self.views = {name: both for name, both in views.items() if (recognition_weight if name == "labeled" else contrastive_weight) > 0}

    def _train_parts(self, recognition: bool) -> None:
        """The parts of the decoder that get no gradient do not ask for one."""
        decoder = self.recognizer.decoder
        if not recognition:
            decoder.requires_grad_(False)
        elif isinstance(decoder, ABINetDecoder):
            decoder.requires_grad_(False)
            decoder.vision.requires_grad_(True)

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words, unlabeled ones, or both; two views of each."""
        parts = [part for part in (batch.labeled, batch.unlabeled) if part is not None]  # the labeled words come first
        memories = [self.recognizer.encode(torch.cat([part.views[view] for part in parts])) for view in range(2)]  # (n, frames, width) each
        total, named = 0, {}
        if self.contrastive_weight:
            instances = torch.cat([self._instances(memory).flatten(0, 1) for memory in memories])  # (2 n T', projection width)
            loss, named["matched_fraction"] = contrast(instances, self.temperature)
            total, named["contrastive_loss"] = self.contrastive_weight * loss, loss
        if self.recognition_weight:
            loss = sum(self._recognition(memory, batch.labeled.targets) for memory in memories)
            total, named["recognition_loss"] = total + self.recognition_weight * loss, loss
        return Losses(total, {name: value.detach() for name, value in named.items()})

    def _instances(self, memory: Tensor) -> Tensor:
        """(n, frames, width) -> (n, T', projection width)."""
        cells = row_by_row(self.recognizer, memory) if self.order == "rows" else column_by_column(self.recognizer, memory)
        projected = self.head(cells)
        return projected if self.mapping == "frame" else windows_of(projected, self.windows)

    def _recognition(self, memory: Tensor, targets: Tensor) -> Tensor:
        """The loss of the first m of n words: memories (n, frames, width), targets (m, steps). ABINet's vision head, which has batch statistics, sees all."""
        decoder, labeled = self.recognizer.decoder, len(targets)
        if not isinstance(decoder, ABINetDecoder):
            return decoder.loss(decoder(memory[:labeled], decoder.inputs(targets)), targets)
        logits = decoder.vision(memory)[1][:labeled]
        count = decoder.tokens.is_character(targets).sum() + len(targets)  # each word has one end symbol
        (everyones,), ranks = over_all_ranks(count.view(1))
        return decoder.branch_loss(logits, targets) * count * ranks / everyones

    def after_step(self, step: int) -> None:
        """Nothing: the optimizer's step is the whole of it."""
