"""What a training step takes: by arithmetic, and as the same step takes it with real numbers."""

import pytest
import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.charset import Charset
from models.costs import without_onednn
from models.footprint import STATES, Held, NeedsValues, batch_of_shapes, footprint, step_bytes
from models.objectives import OBJECTIVES
from models.recognizers import build
from pipelines.training.loop import build_optimizer

SIZES = {"labeled": 6, "unlabeled": 4}


def objective(name: str, recognizer: str, device: str = "meta", **options) -> nn.Module:
    with torch.device(device):
        return OBJECTIVES[name](build(recognizer, Charset.named("36")), **options)


class Shape:
    """As much of a recognizer as a batch is made for."""

    height, width, max_length = 4, 8, 5


class Product(nn.Module):
    """One linear layer on the pixels of the only view."""

    views = {"unlabeled": ("none",)}

    def __init__(self, looks: bool = False):
        super().__init__()
        self.layer = nn.Linear(96, 7, bias=False)  # 3 channels x 4 x 8
        self.recognizer, self.looks = Shape(), looks

    def forward(self, batch: Batch) -> Losses:
        products = self.layer(batch.unlabeled.views[0].flatten(1))  # (n, 7)
        if self.looks and products.sum() > 0:
            products = -products
        return Losses(products.sum())


def test_a_linear_layer_by_hand():
    found = footprint(Product(), {"unlabeled": 10})
    assert (found.parameters, found.trained, found.weights, found.gradients) == (672, 672, 4 * 672, 4 * 672)
    assert found.multiply_adds == 2 * 10 * 672  # the products, and the weight's gradient; the images want none
    images, views = 10 * 96, 4 * 10 * 96
    assert found.activations == images + views + 4 + 4 + 4 * 672  # the most at the end: the loss, its gradient 1, and the weight's before it is kept


def test_memory_is_weights_gradients_states_and_activations():
    found = footprint(Product(), {"unlabeled": 10})
    weight = 4 * 672
    assert found.memory("adamw") == weight * 4 + found.activations
    assert found.memory("sgd") == weight * 3 + found.activations
    assert found.memory("sgd", workers=2) == weight * 4 + found.activations  # and the buckets in which gradients are summed up


@pytest.mark.parametrize("name", STATES)
def test_optimizers_keep_what_is_counted(name):
    parameters = list(nn.Linear(50, 40).parameters())
    optimizer = build_optimizer(parameters, name=name, learning_rate=0.1, weight_decay=0.0)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor) and value.dim()]
    assert sum(value.numel() for value in kept) == STATES[name] * 50 * 40 + STATES[name] * 40


def test_an_objective_that_looks_at_values_has_no_footprint():
    with pytest.raises(NeedsValues, match="local_scalar_dense|item"):
        footprint(Product(looks=True), {"unlabeled": 10})


@pytest.mark.parametrize("name, recognizer", [("supervised", "trba_tiny"), ("seqclr", "crnn_tiny"), ("ccr", "trba_tiny")])
def test_shapes_hold_what_numbers_hold(one_thread, name, recognizer):
    real = objective(name, recognizer, "cpu").train()
    for module in real.modules():
        if hasattr(module, "stops_early"):
            module.stops_early = False
    with without_onednn(), Held([*real.parameters(), *real.buffers()]) as held:
        for parameter in real.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda parameter: held.leave_out(parameter.grad))
        batch = batch_of_shapes(real, SIZES)
        real(batch).total.backward()
    assert step_bytes(objective(name, recognizer), SIZES) == pytest.approx(held.most, rel=0.01)  # single numbers on their way to the host


@pytest.mark.parametrize("name, recognizer", [("supervised", "crnn_tiny"), ("ccr", "crnn_tiny"), ("ccr", "trba_tiny")])
def test_twice_the_images_hold_twice_as_much_but_for_what_a_step_holds_once(name, recognizer):
    built = objective(name, recognizer)
    one, two, three = (step_bytes(built, {part: times * size for part, size in SIZES.items()}) for times in (8, 16, 24))
    assert three - two == pytest.approx(two - one, rel=0.01) and two > 1.5 * one


def test_the_teacher_is_a_copy_that_is_not_trained():
    alone, taught = footprint(objective("supervised", "crnn_tiny"), SIZES), footprint(objective("ccr", "crnn_tiny", projection="none"), SIZES)
    assert taught.parameters == 2 * alone.parameters and taught.trained == alone.trained
    assert taught.weights == 2 * alone.weights and taught.gradients == alone.gradients


def test_bfloat16_takes_less():
    built, sizes = objective("supervised", "crnn_tiny"), {"labeled": 512}
    assert 0.4 < step_bytes(built, sizes, bf16=True) / step_bytes(built, sizes) < 0.9
