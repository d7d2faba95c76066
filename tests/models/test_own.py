"""Objectives and recognizers of the user's own: the examples of docs/own.md, and what is said of names that stand for nothing."""

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import ray.cloudpickle
import torch

from models import own
from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import objective_named
from models.recognizers import build
from pipelines.cli import main

DOCS = (Path(__file__).parents[2] / "docs" / "own.md").read_text(encoding="utf-8")
EXAMPLES = {re.match(r"# (\w+\.py)", code).group(1): code for code in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the examples' files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, "_TEXTS", {})
    for name, code in EXAMPLES.items():
        Path(name).write_text(code, encoding="utf-8")
    return tmp_path


def test_the_examples_work_together(here):
    torch.manual_seed(0)
    recognizer = build("thin.py:thin", Charset.named("36"), width=64)
    assert recognizer.name == "thin.py:thin" and recognizer.width == 64
    model = objective_named("sure.py:Sure")(recognizer, entropy_weight=0.5).train()
    view = torch.rand(2, 3, 32, 64) * 2 - 1
    losses = model(Batch(Part(view, ["a", "b"], ["on", "off"], recognizer.decoder.encode(["on", "off"]), (view,)), Part(view, ["c", "d"], views=(view,))))
    losses.total.backward()
    assert losses.total.item() == pytest.approx(losses.named["recognition_loss"].item() + 0.5 * losses.named["entropy"].item())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_process_without_the_file_is_told_its_text(here):
    texts = own.texts_of("sure.py:Sure", "crnn_tiny")
    assert texts == {"sure.py": EXAMPLES["sure.py"]}
    Path("sure.py").unlink()
    own.remember(texts)
    assert objective_named("sure.py:Sure").__name__ == "Sure"


def test_what_a_file_defines_goes_to_other_processes_by_value(here):
    """As Ray sends it: with cloudpickle, to a process that has neither the file nor the module."""
    Path("sized.py").write_text("from dataclasses import dataclass\nfrom torch import nn\n@dataclass\nclass Size:\n    width: int = 3\nclass Layer(nn.Module):\n"
                                "    def forward(self, x):\n        return x + Size().width\n", encoding="utf-8")
    layer = own.own("objectives", "sized.py:Layer")()
    sent = ray.cloudpickle.dumps(layer)
    found = subprocess.run([sys.executable, "-c", "import pickle, sys; print(pickle.load(sys.stdin.buffer)(1))"], input=sent, capture_output=True, check=True,
                           cwd="/")
    assert found.stdout.strip() == b"4"


def test_another_text_is_another_class(here):
    first = objective_named("sure.py:Sure")
    assert objective_named("sure.py:Sure") is first
    Path("sure.py").write_text(EXAMPLES["sure.py"].replace("0.1", "0.2"), encoding="utf-8")
    assert objective_named("sure.py:Sure") is not first


def test_an_installed_package_s_entry_point_is_a_name(here, monkeypatch):
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setitem(sys.modules, "sure", None)  # whatever has the name here is back after the test
    del sys.modules["sure"]
    monkeypatch.setattr(own, "entry_points", lambda group: [EntryPoint("sure", "sure:Sure", group)] if group == "textray.objectives" else [])
    assert objective_named("sure").__name__ == "Sure"
    with pytest.raises(ValueError, match="did you mean 'sure'?"):
        objective_named("sur")


@pytest.mark.parametrize(("name", "message"), [
    ("nowhere.py:Sure", "expected a file nowhere.py, found none that can be read"), ("sure.py:Sur", "sure.py: expected Sur, found Sure there"),
    ("sure.py:", "sure.py: expected a name behind the colon"), ("broken.py:Sure", "broken.py: expected Python, found a mistake in line 1"),
    ("sure.py:torch", "sure.py:torch: expected a torch.nn.Module with views"), ("crr", "did you mean 'ccr'?"), ("xyz", "known: supervised, "),
])
def test_names_that_stand_for_nothing(here, name, message):
    Path("broken.py").write_text("def :", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        objective_named(name)


def test_a_file_that_fails_says_so_itself_and_again(here):
    Path("failing.py").write_text("import no_such_package", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_package"):
            objective_named("failing.py:Sure")


def test_a_recognizer_of_ones_own_is_shown_in_detail(here, capsys):
    assert main(["models", "thin.py:thin"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("thin.py:thin\nreads 32 x 100 gray, ctc: a class for each frame; 37 classes with 36 characters\n") and "  width = 100\n" in shown
