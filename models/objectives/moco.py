"""MoCo: momentum contrast with a queue of negatives, v1 and v2.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, arXiv 1911.05722; Chen et al., arXiv 2003.04297 (v2); on words
Baek et al., CVPR 2021, arXiv 2103.04400.

    q = f_q(one view),  k = f_k(the other), no gradient; both of unit length
    L = the mean of -log( exp(q.k / temperature) / (exp(q.k / temperature) + sum over the queue of exp(q.k_i / temperature)) )        (equation 1)
    theta_k <- momentum theta_k + (1 - momentum) theta_q                                                                              (equation 2)
    the keys enter the queue behind the logits, the oldest leave it

f is an image's vector (see image_vectors.py) and a head: v1 linear, temperature 0.07; v2 linear, ReLU, linear, temperature 0.2. As in the authors' code:
- f_k averages parameters alone; its batch statistics are those of the keys that it sees.
- In distributed training the keys are shuffled over the ranks before f_k sees them and put back afterwards, so that no statistics of a batch tell which key
  belongs to which query; all ranks' keys enter the queue, which is the same on all.
- The queue begins as random directions.
Otherwise than theirs: f_k moves behind the optimizer's step and not before the next keys, which gives the same keys; and validation neither moves f_k nor
fills the queue. Baek's augmentation has a horizontal flip, which ours has not: it would show words that nobody writes.
"""

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.batch import Batch, Losses
from models.objectives.checks import check_decay, check_one_width, check_positive
from models.objectives.distributed import everyones, several_ranks
from models.objectives.heads import head
from models.objectives.image_vectors import Features, spread, train_for_vectors, vectors, width_of
from models.objectives.moving_average import follow, follower
from models.precision import at_least_float32, exactly
from models.recognizer import Recognizer


class MoCo(nn.Module):
    """Contrasts each image with a queue of others.

    version: v1 or v2, which decides the head, and the temperature unless one is given.
    queue: how many keys it holds, at least those of one step of all ranks. momentum: what f_k keeps of itself.

    f_k starts as a copy: load pretrained weights before building this.
    """

    views = {"unlabeled": ("seqclr", "seqclr")}

    def __init__(self, recognizer: Recognizer, *, version: Literal["v1", "v2"] = "v2", features: Features = "visual", projection_width: int = 128,
                 queue: int = 65536, momentum: float = 0.999, temperature: float | None = None) -> None:
        super().__init__()
        temperature = {"v1": 0.07, "v2": 0.2}[version] if temperature is None else temperature
        check_positive("moco", {"projection_width": projection_width, "queue": queue, "temperature": temperature})
        check_decay("moco", "momentum", momentum, 0.999)
        check_one_width("moco", recognizer, "which the ranks exchange")
        self.recognizer, self.features = recognizer, features
        self.head = _head(version, width_of(recognizer, features), projection_width)
        train_for_vectors(recognizer, features)
        self.key_recognizer, self.key_head = follower(recognizer), follower(self.head)
        self.register_buffer("queue", F.normalize(torch.randn(queue, projection_width), dim=1))  # a row for each key
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))  # where the next key goes
        self.momentum, self.temperature = momentum, temperature
        # Equal on all ranks by what they do: sending it from rank to rank in every step would cost more than the gradients.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, ["queue", "place"])

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose unlabeled part has two views; in training its keys enter the queue."""
        queries, keys = batch.unlabeled.views
        own = F.normalize(at_least_float32(self.head(vectors(self.recognizer, queries, self.features))), dim=1)  # (n, width)
        with torch.no_grad():
            theirs = self._keys(keys)  # (n, width)
            negatives = self.queue.clone()  # the backward pass needs it as it is now
        with exactly(own):
            similarity = torch.cat([(own * theirs).sum(1, keepdim=True), own @ negatives.t()], 1) / self.temperature  # (n, 1 + queue)
            loss = F.cross_entropy(similarity, torch.zeros(len(own), dtype=torch.int64, device=own.device))
        if self.training:
            self._enqueue(theirs)
        matched = (similarity.detach().argmax(1) == 0).to(own.dtype).mean()
        return Losses(loss, {"contrastive_loss": loss.detach(), "matched_fraction": matched, "spread": spread(own)})

    def _keys(self, images: Tensor) -> Tensor:
        """(n, 3, height, W) -> (n, width) of unit length; several ranks exchange their images first."""
        if not several_ranks():
            return self._encoded(images)
        world, rank, count = dist.get_world_size(), dist.get_rank(), len(images)
        order = torch.randperm(world * count, device=images.device)
        dist.broadcast(order, src=0)
        shuffled = everyones(images)[order[rank * count:(rank + 1) * count]]
        keys = everyones(self._encoded(shuffled))  # (ranks * n, width), in the shuffled order
        return keys[order.argsort()[rank * count:(rank + 1) * count]]

    def _encoded(self, images: Tensor) -> Tensor:
        return F.normalize(at_least_float32(self.key_head(vectors(self.key_recognizer, images, self.features))), dim=1).to(self.queue.dtype)

    def _enqueue(self, keys: Tensor) -> None:
        """Keys (n, width) of this rank, and those of the others, over the oldest."""
        keys = everyones(keys)
        if len(keys) > len(self.queue):
            raise ValueError(f"moco expects a queue that holds the keys of one step, {len(keys)}, found {len(self.queue)}: raise queue")
        places = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, places, keys)
        self.place.copy_((self.place + len(keys)) % len(self.queue))

    def after_step(self, step: int) -> None:
        """theta_k <- momentum theta_k + (1 - momentum) theta_q."""
        follow(self.key_recognizer, self.recognizer, self.momentum, buffers=False)
        follow(self.key_head, self.head, self.momentum, buffers=False)


def _head(version: str, width: int, projection_width: int) -> nn.Module:
    """v2's hidden layer is as wide as the vectors."""
    if version == "v1":
        return head("linear", width, projection_width)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection_width))
