"""`textray recipes`, and an installed textray: it brings its recipes along."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from pipelines.cli import run
from pipelines.training.packaged import packaged
from pipelines.training.recipe import load_recipe
from pipelines.training.schema import schema

ROOT = Path(__file__).parents[2]
NAMES = sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))


def test_every_recipe_is_listed_with_what_it_is(capsys):
    assert run("recipes", []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert re.fullmatch(r"ccr_trba +ccr on trba +TRBA-cr, as in CCR \(Zheng et al., CVPR 2022\): labels from MJ \+ ST, consistency on unlabeled real crops", lines[NAMES.index("ccr_trba")])
    assert run("recipes", ["--json"]) == 0
    assert [(each["name"], each["kind"]) for each in json.loads(capsys.readouterr().out)] == [(each.name, each.kind) for each in packaged()]


def test_one_is_shown_copied_and_trained_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "recipes" / "ccr_trba.yaml").read_text(encoding="utf-8")
    for name in ("ccr_trba", "ccr_trba.yaml", "recipes/ccr_trba.yaml"):
        assert run("recipes", [name]) == 0
        assert capsys.readouterr().out == text
        assert load_recipe(name, ["training.steps=7"]) == load_recipe(ROOT / "recipes" / "ccr_trba.yaml", ["training.steps=7"])
    assert run("recipes", ["ccr_trba", "--copy", "mine.yaml"]) == 0
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == text and "textray finetune mine.yaml" in capsys.readouterr().out
    for arguments, sentence in ((["ccr_trba", "--copy", "mine.yaml"], "--copy mine.yaml: expected a new file, found one: choose another name"),
                                (["ccr_tba"], "expected a recipe of textray's, found 'ccr_tba'; did you mean 'ccr_trba'?"),
                                (["trian"], f"found 'trian'; the nearest is 'self_train_crnn_small'; `textray recipes` lists all {len(NAMES)}\n"),
                                (["--copy", "x.yaml"], "--copy: expected the name of a recipe before it, found none")):
        assert run("recipes", arguments) == 2
        assert sentence in capsys.readouterr().err
    assert run("finetune", ["ccr_tba"]) == 2
    assert "expected a recipe file, found nothing at ccr_tba; did you mean 'ccr_trba', which comes with textray?" in capsys.readouterr().err
    (tmp_path / "ccr_trba").write_text("name: mine\n", encoding="utf-8")  # what lies here comes first
    assert run("finetune", ["ccr_trba"]) == 2
    assert "ccr_trba: the key 'recognizer' is missing" in capsys.readouterr().err


def test_the_schema_knows_every_recipe_and_what_is_none():
    jsonschema = pytest.importorskip("jsonschema", reason="an editor's library")
    check = jsonschema.Draft202012Validator(schema())
    check.check_schema(check.schema)
    for recipe in packaged():
        assert list(check.iter_errors(yaml.safe_load(recipe.text))) == [], recipe.name
    tree = yaml.safe_load((ROOT / "recipes" / "ccr_crnn_tiny.yaml").read_text(encoding="utf-8"))
    for change in ({"trainig": {}}, {"objective": {"name": "ccr", "ema_decya": 0.9}}, {"objective": {"name": "ccr", "ema_decay": "much"}}, {"training": {"steps": 0}},
                   {"recognizer": {"name": "crnn_tiny", "options": {"with": 64}}}):
        assert not check.is_valid(tree | change), change
    assert check.is_valid(tree | {"objective": {"name": "mine.py:Half", "anything": 1}})  # one's own


def test_an_installed_textray_brings_its_recipes(tmp_path):
    """Built as a wheel, from a copy, and used away from the checkout."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("models", "pipelines", "tuning", "textray", "recipes"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(copy)], check=True,
                   capture_output=True)
    [wheel] = tmp_path.glob("textray-*.whl")
    place, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
        assert {"textray/py.typed", *(f"recipes/{name}.yaml" for name in NAMES)} <= set(archive.namelist())
        assert {str(file.relative_to(ROOT)) for file in (ROOT / "pipelines" / "reports" / "templates").iterdir()} <= set(archive.namelist())
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
        assert not [name for name in archive.namelist() if name.startswith(("tests", "benchmarks", "docs"))]
    script = ("import json, pipelines, textray\nfrom pipelines.training.packaged import packaged\n"
              "print(json.dumps([pipelines.__file__, textray.__file__, [each.name for each in packaged()]]))")
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONUTF8": "1"}
    found = json.loads(subprocess.run([sys.executable, "-c", script], cwd=empty, env=environment, check=True, capture_output=True, text=True).stdout)
    assert found == [str(place / "pipelines" / "__init__.py"), str(place / "textray" / "__init__.py"), NAMES]
