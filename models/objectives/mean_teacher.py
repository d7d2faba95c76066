"""Mean Teacher for words: a moving average of the weights says what another noisy view should look like.

Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv 1703.01780, as Baek et al. use it for words, "What If We Only
Use Real Datasets for Scene Text Recognition?", CVPR 2021, arXiv 2103.04400 (STR-Fewer-Labels).

    supervised   L_reg = the recognizer's own loss on the first view of the labeled words, with teacher forcing
    student      logits of the first view: of labeled words those of L_reg, of unlabeled ones its decoder fed with its own symbols
    teacher      logits of the second view of both, its decoder fed with its own symbols, without gradient
    consistency  L_mt = the mean of (softmax(student) - softmax(teacher))^2 over ALL words, steps and classes: also over the steps behind the end
    average      teacher <- a teacher + (1 - a) student after every step, a = min(1 - 1/(t + 2), ema_decay) after step t
    L = L_reg + w L_mt,   w 1, ema_decay 0.999

As in the authors' code the teacher runs in training mode, with batch statistics and buffers of its own (the average is of parameters alone), and w
is constant. Their average moves at the beginning of step t + 1, by 1 - 1/((t + 1) + 1), before the teacher is asked; here at the end of step t,
which is the same teacher in every step.

`ramp_steps` is the form of the first paper, USB and TorchSSL, whose weight rises from 0: w min(t / ramp_steps, 1), with t steps done. Theirs take
40 % of the run.

Nothing aligns the two decoders, step 5 of one may be step 6 of the other; that is the method. A CTC decoder's steps are its frames.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.objectives.checks import check_decay, check_steps, check_weights
from models.objectives.moving_average import follow, follower
from models.objectives.readings import read
from models.objectives.signals import signals
from models.objectives.weak_strong import to_the_end
from models.precision import at_least_float32
from models.recognizer import Recognizer


class MeanTeacher(nn.Module):
    """Learns from labeled words, and to agree with its own average on all; the student is `recognizer`, its average `teacher`.

    consistency_weight: w. ema_decay: what the average keeps of itself, at most. ramp_steps: over which w rises; none: it is constant.
    view: the augmentation that both views are drawn from.

    The teacher starts as a copy: load pretrained weights before building this.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        consistency_weight: float = 1.0,
        ema_decay: float = 0.999,
        ramp_steps: int | None = None,
        view: Literal["weak", "strong"] = "strong",
    ) -> None:
        super().__init__()
        check_weights("mean_teacher", {"consistency_weight": consistency_weight})
        check_decay("mean_teacher", "ema_decay", ema_decay, 0.999)
        check_steps("mean_teacher", "ramp_steps", ramp_steps, needed=False)
        self.recognizer = recognizer
        self.teacher = follower(recognizer)
        self.consistency_weight, self.ema_decay, self.ramp_steps = consistency_weight, ema_decay, ramp_steps
        self.views = {"labeled": (view, view), "unlabeled": (view, view)}
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # steps done

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words (two views, targets) and unlabeled ones (two views). The host waits for nothing."""
        decoder = self.recognizer.decoder
        (labeled_view, labeled_other), (unlabeled_view, unlabeled_other) = batch.labeled.views, batch.unlabeled.views
        labeled = self.recognizer(labeled_view, decoder.inputs(batch.labeled.targets))
        recognition = decoder.loss(labeled, batch.labeled.targets)
        with to_the_end(self.recognizer):
            online = self.recognizer(unlabeled_view)
        with torch.no_grad(), to_the_end(self.teacher):
            taught = [self.teacher(view).logits for view in (labeled_other, unlabeled_other)]
        consistency = squared_distance([labeled.logits, online.logits], taught)
        ramp = 1.0 if self.ramp_steps is None else (self.step / self.ramp_steps).clamp(max=1)
        target = read(taught[1], decoder.tokens)
        named = {"recognition_loss": recognition.detach(), "consistency_loss": consistency.detach(),
                 **signals(target, read(online.logits, decoder.tokens), torch.ones_like(target.is_read), decoder.tokens)}
        return Losses(recognition + self.consistency_weight * ramp * consistency, named)

    def after_step(self, step: int) -> None:
        """The teacher follows the student; the weight rises."""
        follow(self.teacher, self.recognizer, min(1 - 1 / (step + 2), self.ema_decay), buffers=False)
        self.step.fill_(step)


def squared_distance(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    """The mean over all entries of the squared differences between softmaxes of logits (n, steps, classes), part by part. A scalar.

    Of parts with different numbers of steps those count that both have (labels may be shorter than what is read).
    """
    squares, entries = [], 0
    for student, teacher in zip(students, teachers, strict=True):
        steps = min(student.shape[1], teacher.shape[1])
        one, other = (at_least_float32(logits[:, :steps]).softmax(-1) for logits in (student, teacher))
        squares.append((one - other).square().sum())
        entries += one.numel()
    return torch.stack(squares).sum() / entries
