"""Joining a cluster, and starting a local Ray."""

import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import ray
import yaml

from pipelines import cluster
from pipelines.cluster import TESTED, check_version, cluster_cpus, start_ray
from pipelines.errors import BadInput
from pipelines.synthesis.corpus import Settings, render_corpus

ROOT = Path(__file__).parents[2]


def test_nothing_happens_when_ray_runs_already(ray_session, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    start_ray(num_cpus=1)
    assert cluster_cpus() == 4


def test_an_address_where_nothing_listens_is_bad_input(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(BadInput, match="RAY_ADDRESS=127.0.0.1:1: expected a running Ray cluster.*unset RAY_ADDRESS"):
        start_ray()


def test_a_local_ray_asks_for_a_token_but_leaves_none_behind(tmp_path):
    """A token file would turn authentication on for the next `ray start --head` of this user."""
    script = ("import ray\n"
              "from pipelines.cluster import start_ray, cluster_cpus\n"
              "start_ray(num_cpus=1, object_store_memory=100 * 2**20)\n"
              "import os\n"
              "print(os.environ['RAY_AUTH_MODE'], cluster_cpus(), ray.get(ray.remote(lambda: 7).remote()))\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", script], env={**environment, "HOME": str(tmp_path)},
                          capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "token 1 7", done.stderr
    assert not (tmp_path / ".ray").exists()


@pytest.mark.parametrize("version", ["2.50.1", "2.59.0", "2.61.0", "2.6.0", "3.0.0", "2.600.0"])
def test_another_ray_than_the_tested_one_is_refused(version, monkeypatch):
    monkeypatch.setattr("ray.__version__", version)
    with pytest.raises(BadInput) as problem:
        start_ray()
    assert str(problem.value) == (f"expected Ray 2.60, with which textray was tested, found {version}: "
                                  "pip install 'ray[data,train,tune,default]>=2.60,<2.61'")


@pytest.mark.parametrize("version", ["2.60.0", "2.60.3", "2.60"])
def test_the_tested_ray_is_taken(version, monkeypatch):
    monkeypatch.setattr("ray.__version__", version)
    check_version()


@pytest.mark.parametrize("value", ["0", "false"])
def test_the_old_train_is_refused(value, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", value)
    with pytest.raises(BadInput, match=f"found RAY_TRAIN_V2_ENABLED={value}: unset it"):
        start_ray()


def test_a_command_says_so_before_it_misses_a_name_of_the_other_version(tmp_path):
    """Whatever opens what trains under Ray."""
    (tmp_path / "try.py").write_text("import ray; ray.__version__ = '2.50.0'\nfrom pipelines import cli\n"
                                     "cli.COMMANDS['opens'] = ('pipelines.training.distributed', '')\nraise SystemExit(cli.run('opens', []))\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "try.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("textray: error: expected Ray 2.60, with which textray was tested, found 2.50.0: pip install") and \
        len(done.stderr.splitlines()) == 1


def test_every_dependency_has_a_floor_and_a_ceiling_and_ray_the_tested_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    libraries = [line for line in project["dependencies"] if not line.startswith("font-")]
    assert all(re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?>=[0-9.]+,<[0-9.]+", line) for line in libraries), libraries
    [line] = [line for line in libraries if line.startswith("ray")]
    assert line == f"ray[data,train,tune,default]>={TESTED[0]}.{TESTED[1]},<{TESTED[0]}.{TESTED[1] + 1}"


def test_internal_names_are_used_only_where_a_ceiling_is_near():
    """A name that a library keeps to itself may go with its next version: ours use few, of libraries whose next version is not taken."""
    found = {(file.relative_to(ROOT).as_posix(), match[1]) for folder in ("models", "pipelines", "tuning") for file in (ROOT / folder).rglob("*.py")
             for match in re.finditer(r"(?m)^\s*(?:from|import) ((?:ray|torch|mlflow|pyarrow|pydantic|cv2|numpy)\.(?:\w+\.)*_\w+)", file.read_text(encoding="utf-8"))}
    assert found == {("pipelines/feed/datasource.py", "ray.data._internal"), ("models/costs.py", "torch._subclasses"),
                     ("models/recognizers.py", "torch._subclasses"), ("models/objectives/visu.py", "torch._subclasses"),
                     ("models/footprint.py", "torch._subclasses"), ("models/footprint.py", "torch.utils._pytree"),
                     ("models/footprint.py", "torch.utils._python_dispatch")}


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A recipe of two steps on a few words."""
    render_corpus(tmp_path / "words", 16, Settings(style="plain", charset="36"))
    tree = {"name": "short", "runs": str(tmp_path / "runs"), "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "training": {"steps": 2},
            "data": {"labeled": {"corpus": str(tmp_path / "words"), "batch_size": 8}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize("environment, found, remedy", [
    ({"RAY_ADDRESS": "127.0.0.1:1"}, "none that answers ([Errno 111] Connection refused)", "unset RAY_ADDRESS for a local Ray"),
    ({"RAY_ADDRESS": "ray://127.0.0.1:1"}, "none that answers ([Errno 111] Connection refused)", "unset RAY_ADDRESS for a local Ray"),
    ({"RAY_ADDRESS": "local", "RAY_TMPDIR": "/tmp/" + "x" * 100}, "it does not (validate_socket_filename failed: AF_UNIX path length",
     "set RAY_TMPDIR to a folder with a name of at most 38 characters"),
    ({"RAY_ADDRESS": "local", "RAY_TMPDIR": "/proc/nothing"}, "it does not ([Errno 2] No such file or directory: '/proc/nothing')",
     "make /proc/nothing a folder that can be written to, or set RAY_TMPDIR to one")])
def test_a_command_whose_ray_does_not_start_says_so_in_a_sentence(environment, found, remedy, recipe):
    """The whole command, in a process of its own; no run is left behind."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", "finetune", str(recipe)], cwd=recipe.parent, capture_output=True, text=True, timeout=120,
                          env={**plain, **environment, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{recipe.parent}/mlflow.db"})
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("textray: error: ") and found in done.stderr and remedy in done.stderr
    assert not (recipe.parent / "runs").exists()


def test_what_listens_and_is_no_ray_is_told_from_one_in_seconds(monkeypatch):
    """Ray itself would try for minutes."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("it went as far as Ray"))
    monkeypatch.setattr(cluster, "ANSWERS_WITHIN", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(BadInput, match=rf"RAY_ADDRESS={address}: expected a running Ray cluster, found none that answers \(what listens there does not speak as Ray does\)"):
            start_ray()


def test_a_cluster_that_runs_answers(ray_session):
    """The question that is asked of an address, asked of a real one: no answer is a BadInput, as above."""
    assert cluster._check_answers(ray.get_runtime_context().gcs_address) is None


@pytest.mark.parametrize("limit, remedy", [(30, "allow more open files than 30, as with `ulimit -n 1024`"), (4096, "run `textray doctor`")])
def test_the_remedy_is_what_is_seen_to_be_wrong(limit, remedy, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("resource.getrlimit", lambda what: (limit, limit))
    assert remedy in cluster._remedy()


def test_whether_workers_get_gpus_is_known_or_asked_for_and_never_guessed(ray_session, monkeypatch):
    assert cluster.gpus_for(2, True) and not cluster.gpus_for(2, False)
    assert not cluster.grows() and not cluster.gpus_for(2, None)  # none is there, and none will come
    monkeypatch.setattr(cluster, "grows", lambda: True)  # as with an autoscaler: benchmarks/drills/growing.py has a real one
    with pytest.raises(BadInput, match="training.gpu: expected true or false on a cluster that grows when it is asked, found neither, and 0 GPUs up now for 2 workers: say training.gpu=true"):
        cluster.gpus_for(2, None)
    monkeypatch.setattr(cluster, "grows", lambda: False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 96.0, "GPU": 8.0})
    assert cluster.gpus_for(8, None)
    with pytest.raises(BadInput, match="training.gpu: expected a GPU for each of 16 workers, found 8 in the cluster: set training.workers=8, or training.gpu=false"):
        cluster.gpus_for(16, None)


def test_what_a_cluster_has_no_place_for_is_waited_for_if_it_grows(ray_session, monkeypatch, capfd):
    cluster.wait_for([{"CPU": 1000.0}])  # it does not: whoever counts says what is missing
    assert capfd.readouterr().err == "" and cluster.machines() == 1
    monkeypatch.setattr(cluster, "grows", lambda: True)
    monkeypatch.setattr(cluster, "SECONDS_BETWEEN_LINES", 0.2)
    cluster.wait_for([{"CPU": 1.0}] * 2)

    def stop(line: str) -> None:
        raise InterruptedError(line)
    monkeypatch.setattr(cluster, "say", stop)
    with pytest.raises(InterruptedError, match="waiting for the cluster to grow: 2 × 1000 CPUs and 1 GPU have no place yet on its 1 machines"):
        cluster.wait_for([{"CPU": 1000.0, "GPU": 1.0}] * 2)
    for _ in range(100):
        if all(group["state"] == "REMOVED" for group in ray.util.placement_group_table().values()):  # nothing stays reserved
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"{ray.util.placement_group_table()}")
