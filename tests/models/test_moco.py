"""MoCo: equal to the authors' code step by step, and its queue."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import MoCo
from models.objectives.moving_average import follower
from models.recognizer import Recognizer
from models.recognizers import build


class Same(nn.Module):
    """What it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.nothing


class Rows(nn.Module):
    """A recognizer whose visual features are the rows that it is given."""

    height, width, aspect = 1, 6, "stretch"

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.rectifier, self.encoder, self.sequence, self.decoder = None, body, nn.Identity(), nn.Identity()
        self.memory_rows, self.class_tokens = 1, 0

    def visual(self, rows: Tensor) -> Tensor:
        """(n, 6), or the picture that widths are asked of -> (n, 1, features)."""
        return self.encoder(rows if rows.ndim == 2 else rows[:, 0, 0]).unsqueeze(1)

    cells = Recognizer.cells


def moco(body: nn.Module, head: nn.Module, kept: dict, version: str) -> MoCo:
    """An objective in the state of a record."""
    model = MoCo(Rows(body), version=version, projection_width=8, queue=kept["K"], momentum=kept["momentum"], temperature=kept["temperature"])
    model.head, model.key_head = head, follower(head)
    model.queue.copy_(kept["queue_before"].t())
    return model.train()


def put(model: MoCo, side: str, weights: dict[str, Tensor], names: dict[str, str]) -> None:
    """Copies weights of a record, by our names for theirs."""
    recognizer, head = (model.recognizer, model.head) if side == "q" else (model.key_recognizer, model.key_head)
    parts = {"body": recognizer.encoder, "head": head}
    with torch.no_grad():
        for theirs, value in weights.items():
            layer, _, kind = theirs.rpartition(".")
            part, _, inside = names[layer].partition(".")
            parts[part].get_submodule(inside).get_parameter(kind).copy_(value)


def batch_of(step: dict) -> Batch:
    return Batch(unlabeled=Part(torch.empty(0), ["x"] * len(step["q_input"]), views=(step["q_input"], step["k_input"])))


CASES = {"moco": ("fewer", {"f": "head"}), "v1": ("v1", {"body": "body.0", "fc": "head"}), "v2": ("v2", {"body": "body.0", "fc.0": "head.0", "fc.2": "head.2"})}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_authors_code(parity_data, case):
    """Loss, logits' gradient, queue, its place, and the key encoder, over all recorded steps, the queue's end among them."""
    record = torch.load(parity_data / "fewer_labels.pt", weights_only=True)
    kept = record["moco"] if case == "moco" else record["moco_facebook"][case]
    _, names = CASES[case]
    body = Same() if case == "moco" else nn.Sequential(nn.Linear(6, 7), nn.ReLU())
    head = {"moco": lambda: nn.Linear(6, 8), "v1": lambda: nn.Linear(7, 8),
            "v2": lambda: nn.Sequential(nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 8))}[case]()
    model = moco(body, head, kept, "v2" if case == "v2" else "v1")
    put(model, "q", kept["encoder_q"], names)
    put(model, "k", kept["encoder_k_before"], names)
    for number, step in enumerate(kept["steps"], 1):
        model.after_step(number)  # theirs moves the keys' encoder at the beginning of a step
        model.zero_grad()
        losses = model(batch_of(step))
        losses.total.backward()
        torch.testing.assert_close(losses.total, step["loss"], rtol=5e-6, atol=5e-6)
        torch.testing.assert_close(model.queue.t(), step["queue_after"], rtol=5e-6, atol=5e-6)
        assert model.place == step["pointer_after"]
        if "grad" in step:
            for theirs, gradient in step["grad"].items():
                torch.testing.assert_close(getattr(model.head, theirs.rpartition(".")[2]).grad, gradient, rtol=5e-5, atol=5e-6)
            put(model, "q", step["encoder_q_next"], names)


def objective(**constants) -> MoCo:
    torch.manual_seed(0)
    return MoCo(build("crnn_tiny", Charset.named("36")), projection_width=8, **constants)


def pictures(n: int, seed: int) -> Tensor:
    return torch.rand(n, 3, 32, 100, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_validation_leaves_the_queue_as_it_is():
    model = objective(queue=8).eval()
    before = model.queue.clone()
    model(batch_of({"q_input": pictures(3, 0), "k_input": pictures(3, 1)}))
    assert torch.equal(model.queue, before) and model.place == 0


def test_the_queue_holds_the_newest_keys():
    model = objective(queue=4).train()
    keys = []
    for seed in range(3):  # 9 keys in a queue of 4
        view = pictures(3, seed)
        model(batch_of({"q_input": view, "k_input": view}))
        copied = model.key_head(model.key_recognizer.visual(view).mean(1)).detach()
        keys += list(F.normalize(copied, dim=1))
    assert model.place == 1
    torch.testing.assert_close(model.queue.roll(-1, 0), torch.stack(keys[-4:]), rtol=1e-4, atol=1e-5)


def test_a_queue_that_is_smaller_than_a_step_is_refused():
    with pytest.raises(ValueError, match="a queue that holds the keys of one step, 3, found 2"):
        objective(queue=2).train()(batch_of({"q_input": pictures(3, 0), "k_input": pictures(3, 1)}))


@pytest.mark.parametrize(("version", "temperature", "layers"), [("v1", 0.07, 1), ("v2", 0.2, 3)])
def test_the_version_decides_head_and_temperature(version, temperature, layers):
    model = objective(version=version, queue=8)
    assert model.temperature == temperature
    assert len([model.head] if layers == 1 else list(model.head)) == layers
