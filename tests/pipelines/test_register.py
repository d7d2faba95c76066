"""From a model folder to a served champion."""

import base64
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from killing import Killed
from models.charset import Charset
from models.recognizers import build
from pipelines.errors import BadInput
from pipelines.reading import package
from pipelines.reading.batches import as_input
from pipelines.reading.weights import load_recognizer, save_recognizer
from pipelines.register import main
from pipelines.registry import versions
from pipelines.registry.champion import find_trained, register
from pipelines.tracking import start_run
from pipelines.training.runs import RunFolder, RunState

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_store(store, monkeypatch):
    """And the places of modules as they were, which MLflow changes when it loads a model: a process begun later would find the model's copy of our code."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(versions, "SETTLED", 0.1)  # seconds, and not one: this store is a file


def picture(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (32, 100, 3), np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


IMAGES = [picture(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return save_recognizer(tmp_path_factory.mktemp("model"), build("crnn_tiny", Charset.named("36")), {"run": "small"})


def expected(model: Path) -> list[tuple[str, float]]:
    recognizer = load_recognizer(model)
    images = [cv2.cvtColor(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
              for image in IMAGES]
    with torch.no_grad():
        reading = recognizer.read(as_input(images, torch.device("cpu")))
    return list(zip(reading.texts, reading.confidences.tolist(), strict=True))


def confidences(model: Path):
    return pytest.approx([confidence for _, confidence in expected(model)], abs=1e-6)


def words_folder(folder: Path, labels: list[str]) -> Path:
    """A folder of the pictures, one after another and from the first again, with these labels."""
    folder.mkdir()
    for index, _ in enumerate(labels):
        (folder / f"{index}.png").write_bytes(IMAGES[index % len(IMAGES)])
    (folder / "labels.tsv").write_text("".join(f"{index}.png\t{label}\n" for index, label in enumerate(labels)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def served(model, tmp_path_factory) -> Path:
    """The MLflow model of the model folder, outside any registry."""
    folder = tmp_path_factory.mktemp("served") / "model"
    package.save_served(folder, model)
    return folder


def test_the_served_model_reads_what_the_recognizer_reads(model, served):
    loaded = mlflow.pyfunc.load_model(str(served))
    table = loaded.predict(pd.DataFrame({"image": IMAGES}, index=[5, 6, 7, 8]))
    assert list(table.columns) == ["text", "confidence", "characters"] and list(table.index) == [5, 6, 7, 8]
    assert list(table["text"]) == [text for text, _ in expected(model)]
    assert list(table["confidence"]) == confidences(model)
    assert [len(each) for each in table["characters"]] == [len(text) for text in table["text"]]
    assert all(0 <= value <= 1 for each in table["characters"] for value in each)


def in_any_form(image: bytes) -> list:
    """One image as clients send it."""
    plain, safe = base64.b64encode(image).decode(), base64.urlsafe_b64encode(image).decode()
    wrapped = "\n".join(plain[start:start + 76] for start in range(0, len(plain), 76))
    return [image, bytearray(image), plain, plain.encode(), wrapped, safe, safe.rstrip("="), f"data:image/png;base64,{plain}",
            f"DATA:;charset=utf-8;base64,{urllib.parse.quote(plain)}", f"data:image/png,{urllib.parse.quote(image)}"]


def test_an_image_may_come_in_any_encoding(model, served):
    loaded = mlflow.pyfunc.load_model(str(served)).unwrap_python_model()
    letters = np.random.default_rng(0).integers(0, 256, (24, 64, 3), np.uint8)  # so many that its base64 holds + and /
    images = [IMAGES[0], *(cv2.imencode(ending, letters)[1].tobytes() for ending in (".png", ".jpg", ".bmp", ".webp", ".tiff", ".ppm"))]
    for image in images:
        table = loaded.predict(None, pd.DataFrame({"image": in_any_form(image)}))
        assert set(zip(table["text"], table["confidence"])) == set(zip(*(table[name][:1] for name in ("text", "confidence"))))


def test_what_cannot_be_decoded_is_an_error_that_names_it(served):
    loaded = mlflow.pyfunc.load_model(str(served)).unwrap_python_model()
    bad = [b"", b"<html>", "no base64 !", "data:image/png;base64,AAAA", IMAGES[0][:60], None, 7.5, base64.b64encode(b"nothing").decode()]
    with pytest.raises(MlflowException, match="expected 9 encoded images .* found 8 that cannot be read, counted from 0: "
                       r"row 1 \(empty image\), row 2 \(not an image\), row 3 \(not an image\), row 4 \(not an image\), "
                       r"row 5 \(truncated image\), row 6 \(no image\), row 7 \(no image\), row 8 \(not an image\): correct them") as raised:
        loaded.predict(None, pd.DataFrame({"image": [IMAGES[0], *bad]}))
    assert raised.value.get_http_status_code() == 400
    assert len(loaded.predict(None, pd.DataFrame({"image": []}))) == 0


def test_it_names_its_requirements_at_the_installed_versions(served):
    lines = (served / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines == package.serving_requirements()
    assert f"torch=={torch.__version__.partition('+')[0]}" in lines and not any("+" in line for line in lines)
    files = sorted(str(path.relative_to(served)) for path in (served / "artifacts").rglob("*.*"))
    assert [Path(file).name for file in files] == ["recognizer.json", "weights.pt"]


FRESH = """
    import importlib.metadata, sys
    # What a machine would have after `pip install -r requirements.txt`: these distributions and what they depend on.
    lines = open(sys.argv[1] + "/requirements.txt").read().split()
    wanted, waiting = set(), [line.partition("==")[0] for line in lines]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in wanted:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        wanted.add(name)
        for line in requires:
            if "extra ==" not in line:
                waiting.append(__import__("re").match(r"[\\w.-]+", line).group())
    hidden = {module for module, owners in importlib.metadata.packages_distributions().items()
              if not any(owner.lower().replace("_", "-") in wanted for owner in owners)}

    class Hide:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in hidden - {"models", "pipelines"}:
                raise ModuleNotFoundError(f"{name} is not among the model's requirements", name=name)

    repository = sys.argv[2]
    sys.path[:] = [entry for entry in sys.path
                   if "site-packages" in entry or not (entry + "/").startswith(repository + "/")]
    sys.meta_path[:] = [Hide()] + [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    for absent in ("ray", "lmdb", "wordfreq", "tuning"):
        try:
            __import__(absent)
        except ModuleNotFoundError:
            continue
        raise SystemExit(f"{absent} should be hidden here")
    import mlflow.pyfunc, pandas
    model = mlflow.pyfunc.load_model(sys.argv[1])
    table = model.predict(pandas.DataFrame({"image": [open(path, "rb").read() for path in sys.argv[3:]]}))
    import models.recognizers, pipelines.reading.weights
    for module in (models.recognizers, pipelines.reading.weights):
        assert module.__file__.startswith(sys.argv[1]), module.__file__
    print(table.to_json(orient="values"))
"""


def test_it_loads_where_only_its_requirements_are_installed(model, served, tmp_path):
    for index, image in enumerate(IMAGES):
        (tmp_path / f"{index}.png").write_bytes(image)
    files = [str(tmp_path / f"{index}.png") for index in range(len(IMAGES))]
    command = [sys.executable, "-I", "-c", textwrap.dedent(FRESH), str(served), str(REPOSITORY), *files]
    no_pickle = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(command, cwd=tmp_path, env=no_pickle, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [text for text, _, _ in found] == [text for text, _ in expected(model)]
    assert [confidence for _, confidence, _ in found] == confidences(model)


def test_a_version_keeps_where_it_came_from(model, store, tmp_path):
    handle = start_run("small", uri=store)
    words = words_folder(tmp_path / "words", [expected(model)[0][0] or "-", "nothing like it"])
    folder = save_recognizer(tmp_path / "runs" / "small" / "model", load_recognizer(model), {"run": "small"})
    RunFolder(folder.parent).write(RunState("finished", "0", 1, vars(handle)))
    assert main([str(folder.parent), "--name", "traced", "--data", f"words={words}"]) == 0
    client = MlflowClient(tracking_uri=store)
    version = client.get_model_version("traced", "1")
    assert version.run_id == handle.run and version.tags["run_id"] == handle.run
    assert version.tags["recipe"] == "small"
    assert version.tags["gate_words"] == "2" and version.tags["gate_sets"] == "words"
    assert float(version.tags["gate_accuracy"]) == 0.5
    assert versions.champion_of(store, "traced") is None
    loaded = load_recognizer("models:/traced/1")
    assert all(torch.equal(one, other) for one, other in
               zip(loaded.state_dict().values(), load_recognizer(model).state_dict().values(), strict=True))


def test_a_run_is_found_by_its_id_in_the_store(model, store):
    handle = start_run("by id", tags={"model": str(model)}, uri=store)
    assert find_trained(handle.run, store).folder == model
    unfinished = start_run("unfinished", uri=store)
    with pytest.raises(BadInput, match="has no model: .*has it finished"):
        find_trained(unfinished.run, store)
    with pytest.raises(BadInput, match="found none with the id ffff"):
        find_trained("f" * 32, store)


def test_promotion_needs_words_to_compare_on(model, store):
    assert register(str(model), "lonely", promote=True).champion
    with pytest.raises(BadInput, match="lonely has a champion .version 1. and --promote must .*--data NAME=PATH"):
        register(str(model), "lonely", promote=True)
    assert len(MlflowClient(tracking_uri=store).search_model_versions("name='lonely'")) == 1


@pytest.mark.parametrize("place, calls", [
    ("create_logged_model", 0), ("log_model_artifacts", 0), ("finalize_logged_model", 0), ("log_outputs", 0), ("create_model_version", 0),
    ("set_registered_model_alias", 0), ("set_model_version_tag", 0)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_registration_that_was_killed_is_completed_by_the_same_command(model, store, tmp_path, monkeypatch, capsys, place, calls, when):
    folder, name = save_recognizer(tmp_path / "runs" / "small" / "model", load_recognizer(model), {"run": "small"}), f"killed-{when}-{place}"
    RunFolder(folder.parent).write(RunState("finished", "0", 1, vars(start_run("small", uri=store))))
    command, real, client = [str(folder), "--name", name, "--promote"], getattr(MlflowClient, place), MlflowClient(tracking_uri=store)

    def killing(self, *arguments, **options):
        if when == "after":
            real(self, *arguments, **options)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(MlflowClient, place, killing)
        main(command)
    completed = (place, when) == ("set_model_version_tag", "after")  # nothing was left to do, so the same command is another registration
    assert main([*command, "--data", f"words={words_folder(tmp_path / 'words', ['no', 'nothing'])}"] if completed else command) == 0
    assert [version.version for version in client.search_model_versions(f"name='{name}'")] == ([2, 1] if completed else [1])
    assert versions.champion_of(store, name) == "1"
    models = [found for found in client.search_logged_models(["1"]) if found.name == name]
    assert len([found for found in models if found.status == "READY"]) == (2 if completed else 1)
    assert load_recognizer(f"models:/{name}@champion").name == "crnn_tiny"


def test_several_registrations_at_once_in_a_fresh_folder_all_succeed(model, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": ""}
    folders = [save_recognizer(tmp_path / str(number), load_recognizer(model)) for number in range(2)]
    commands = [[sys.executable, "-m", "pipelines.register", str(folder), "--name", "words"] for folder in (*folders, folders[0])]
    started = [subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    assert [process.communicate()[1][-2000:] * process.returncode for process in started] == ["", "", ""]
    found = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").search_model_versions("name='words'")
    assert sorted(version.version for version in found) == [1, 2, 3]


@pytest.mark.parametrize("name", ["", "a/b", "a:b"])
def test_a_name_that_the_registry_refuses_is_explained(model, store, name):
    with pytest.raises(BadInput, match="--name: MLflow refuses"):
        register(str(model), name)


def test_nothing_is_registered_of_a_model_that_cannot_be_loaded(store, tmp_path):
    broken = save_recognizer(tmp_path, build("crnn_tiny", Charset.named("36")))
    (broken / "weights.pt").write_bytes(b"cut")
    with pytest.raises(BadInput, match="sha256 differs"):
        register(str(broken), "broken")
    assert MlflowClient(tracking_uri=store).search_registered_models("name='broken'") == []


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ask(port: int, path: str, body: dict | None = None) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode() if body else None,
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


@pytest.fixture
def server(served, tmp_path):
    """`mlflow models serve` on a free port of the loopback; takes some seconds to come up."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(served), "--env-manager", "local",
               "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log,
                                   start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            try:
                ask(port, "/ping")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        else:
            pytest.fail((tmp_path / "server.log").read_text(encoding="utf-8"))
        yield port
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_mlflow_serves_it(model, server):
    encoded = [base64.b64encode(image).decode() for image in IMAGES]
    for body in ({"dataframe_split": {"columns": ["image"], "data": [[image] for image in encoded]}},
                 {"dataframe_records": [{"image": image} for image in encoded]},
                 {"inputs": {"image": encoded}}, {"instances": [{"image": image} for image in encoded]}):
        found = json.loads(ask(server, "/invocations", body))["predictions"]
        assert [row["text"] for row in found] == [text for text, _ in expected(model)]
        assert [row["confidence"] for row in found] == confidences(model)
        assert [len(row["characters"]) for row in found] == [len(row["text"]) for row in found]
    safe = [base64.urlsafe_b64encode(image).decode() for image in IMAGES]
    for texts in (safe, [f"data:image/png;base64,{image}" for image in encoded]):
        found = json.loads(ask(server, "/invocations", {"inputs": {"image": texts}}))["predictions"]
        assert [row["text"] for row in found] == [text for text, _ in expected(model)]
    for body in ({"dataframe_split": {"columns": ["image"], "data": [[encoded[0]], ["bm90aGluZw=="]]}},
                 {"inputs": {"image": [encoded[0], "no image"]}}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(server, "/invocations", body)
        assert refused.value.code == 400 and "counted from 0: row 1 (not an image)" in refused.value.read().decode()
