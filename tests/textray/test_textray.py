"""`import textray`: what the commands do, from a program, with the same names, defaults, results and sentences."""

import argparse
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import textray
from confident import sure_model
from models.charset import Charset
from pipelines.cli import run


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A recognizer that is sure of something, whatever it is."""
    return sure_model(tmp_path_factory.mktemp("model"), run="sure")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Three colourful pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, (3, 6, 3), np.uint8)
        cv2.imwrite(str(folder / f"{seed}.png"), cv2.resize(noise, (60, 20), interpolation=cv2.INTER_CUBIC))
    return folder


def test_files_bytes_pixels_and_pil_images_are_read_alike_and_as_by_the_command(model, pictures, capsys):
    files = sorted(pictures.iterdir())
    assert run("predict", [str(model), *map(str, files), "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    reader = textray.load(model)
    found = reader.read(files)
    assert [(read.text, read.problem) for read in found] == [(line["text"], None) for line in said] and all(read.text for read in found)
    assert [read.confidence for read in found] == pytest.approx([line["confidence"] for line in said], abs=1e-6)
    pixels = [cv2.imread(str(file))[..., ::-1] for file in files]
    for others in (map(str, files), [file.read_bytes() for file in files], pixels, map(Image.open, files)):
        assert reader.read(others) == found
    assert [reader.read(one)[0].text for one in (files[0], str(files[0]), files[0].read_bytes(), pixels[0], Image.open(files[0]))] == [found[0].text] * 5
    assert reader.name.startswith("sure@") and reader.characters == Charset.named("36").characters


def test_grey_pixels_are_read_and_what_is_no_image_has_a_problem(model, pictures):
    reader = textray.load(model, batch_size=2)
    grey = cv2.imread(str(pictures / "0.png"), cv2.IMREAD_GRAYSCALE)
    found = reader.read([grey, b"no image", pictures / "none.png", pictures])
    assert found[0].problem is None and [read.problem for read in found[1:]] == ["not an image", "no such file", "no such file"]
    assert [(read.text, read.confidence) for read in found[1:]] == [("", 0.0)] * 3
    for pixels in (grey.astype(np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(textray.BadInput, match=r"expected pixels \(height, width\) or \(height, width, 3\) of uint8"):
            reader.read(pixels)


@pytest.mark.parametrize("mode", ["P", "RGBA", "1", "CMYK", "LA"])
def test_pil_images_of_other_modes_are_read_as_they_look(model, mode):
    grey = Image.fromarray(np.tile(np.repeat(np.array([0, 255], np.uint8), 15), (20, 2)))  # black and white stripes, which every mode holds
    reader = textray.load(model)
    assert reader.read(grey.convert(mode)) == reader.read(grey.convert("RGB"))


def test_a_file_that_was_edited_between_two_runs_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "w.txt").write_text("one\n", encoding="utf-8")
    first = textray.render("a", 8, style="plain", charset="36", words="w.txt")
    (tmp_path / "w.txt").write_text("two\n", encoding="utf-8")
    second = textray.render("b", 8, style="plain", charset="36", words="w.txt")
    assert [{text for table in each.rows_iter(["text"]) for text in table["text"].to_pylist()} for each in (first, second)] == [{"one"}, {"two"}]
    code = ("from models.objectives.supervised import Supervised\n\n\nclass Own(Supervised):\n    def __init__(self, recognizer, *, scale: float = {0}):\n"
            "        super().__init__(recognizer)\n        self.scale = scale\n\n    def forward(self, batch):\n        losses = super().forward(batch)\n"
            "        losses.named['scale'] = losses.total.detach() * 0 + {0}\n        return losses\n")
    seen = []
    for scale in (2.0, 3.0):
        (tmp_path / "mine.py").write_text(code.format(scale), encoding="utf-8")
        done = textray.train({"name": f"own-{scale}", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "mine.py:Own"}, "training": {"steps": 1},
                              "data": {"labeled": {"corpus": "a", "batch_size": 8}}}, quiet=True)
        seen.append([json.loads(line)["scale"] for line in (done.folder / "progress.jsonl").read_text(encoding="utf-8").splitlines() if "scale" in line])
    assert seen == [[2.0], [3.0]]


def test_from_drawn_words_to_an_accuracy(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert textray.ingest(f"own={pictures}", out="own", duplicates="exact").rows == 3
    assert textray.render("words", 80, style="plain", charset="36").rows == 80 == textray.describe("words")["total"]["labeled"]
    parts = textray.split("words", validation=0.2, test=0.2)
    assert sum(part.rows for part in parts.values()) == 80
    recipe = {"name": "api", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "training": {"steps": 2},
              "data": {"labeled": {"corpus": "words-train", "batch_size": 8}}}
    done = textray.train(recipe, "training.steps=3", quiet=True)
    assert (done.metrics["step"], recipe["training"]) == (3, {"steps": 2})
    scores = textray.evaluate(done.model, {"test": "words-test"}, out="report")
    assert scores["test"].words == parts["test"].rows and 0 <= scores["test"].accuracy <= 1 and (tmp_path / "report" / "evaluation.html").is_file()
    made = textray.predict("api", "words-test", out="read.csv")
    assert made.kept == len((tmp_path / "read.csv").read_text(encoding="utf-8").splitlines()) - 1 == parts["test"].rows


def test_a_mistake_is_the_commands_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(textray.BadInput, match="there is no key 'objective.ema_decya': did you mean 'ema_decay'"):
        textray.finetune("ccr_crnn_tiny", "objective.ema_decya=0.9")
    with pytest.raises(textray.BadInput, match="nowhere: expected"):
        textray.split("nowhere")
    textray.render("somewhere", 3, style="plain")
    with pytest.raises(textray.BadInput, match="together above 0 and below 1"):
        textray.split("somewhere", validation=0.6, test=0.6)


@pytest.mark.parametrize("name", ["ingest", "render", "evaluate", "predict", "split"])
def test_a_functions_arguments_are_the_commands_options_with_their_defaults(name):
    """Positions aside: --out may be a path in one and asked for in the other."""
    door = importlib.import_module(f"pipelines.{name}")
    options = {action.dest: action.default for action in door.parser()._actions if action.option_strings and action.dest not in ("help", argparse.SUPPRESS)}
    arguments = {parameter.name: parameter.default for parameter in inspect.signature(getattr(textray, name)).parameters.values()}
    for left_out in ("gate", "sheet", "keep_images", "json", "data", "out", "n"):  # what prints, what fails a script, what has another form in a program
        options.pop(left_out, None)
    assert {option: tuple(default) if isinstance(default, list) else default for option, default in options.items()} == {
        option: arguments[option] for option in options}


def test_importing_it_takes_no_time():
    light = "import sys, textray; print(sorted({'torch', 'ray', 'mlflow', 'pyarrow', 'numpy', 'cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout.strip() == "[]"


def test_a_folder_of_the_user_s_that_hides_a_part_of_textray_is_named(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("", encoding="utf-8")
    known = {**os.environ, "PYTHONPATH": str(Path(textray.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", "import textray"], cwd=tmp_path, env=known, capture_output=True, text=True)
    assert done.returncode == 1 and f"textray: expected its own package 'models' beside it, found {tmp_path / 'models' / '__init__.py'}: start from another folder" in done.stderr
