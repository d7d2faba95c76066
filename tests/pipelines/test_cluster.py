"""Joining a cluster, and starting a local Ray."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipelines.cluster import TESTED, check_version, cluster_cpus, start_ray
from pipelines.errors import BadInput

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
    assert all(re.fullmatch(r"[a-z-]+(\[[a-z,]+\])?>=[0-9.]+,<[0-9.]+", line) for line in libraries), libraries
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
