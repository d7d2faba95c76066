"""Jobs on a real head that asks for a token: what users type, with `ray job submit`."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import cluster
from pipelines.cli import run
from pipelines.errors import BadInput
from pipelines.handles import tracking_uri
from pipelines.synthesis.corpus import Settings, render_corpus

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head of three CPUs in processes of its own, and the environment of a user who has its token. `ray stop` would end every Ray of this machine: these are told by
    their folder."""
    folder = Path("/tmp") / f"jobs-{secrets.token_hex(4)}"  # sockets have short names
    folder.mkdir()
    token = folder / "token"
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    gcs, dashboard, client, agent = free_ports(4)
    known = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    mine = {**known, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{BIN}:{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([BIN / "ray", "start", "--head", "--block", f"--port={gcs}", "--num-cpus=3", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
                                f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}", "--object-store-memory=200000000", f"--temp-dir={folder}/ray", "--disable-usage-stats"],
                               env=mine, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    user = {**mine, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    del user["MLFLOW_TRACKING_URI"]  # which the cluster's machines have
    for _ in range(60):
        if subprocess.run([BIN / "ray", "job", "list"], env=user, capture_output=True, timeout=120).returncode == 0:
            break
        assert started.poll() is None
        time.sleep(1)
    else:
        pytest.fail("the head does not answer")
    render_corpus(folder / "words", 60, Settings(style="plain"))
    yield folder, user
    subprocess.run(["pkill", "-9", "-f", f"{folder}/ray"])  # asked kindly, they take half a minute
    started.kill()
    started.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory) -> Path:
    """What a user would submit from: a recipe, and a file of words; textray is installed where the cluster's Ray is."""
    folder = tmp_path_factory.mktemp("working")
    common = "recognizer: {name: crnn_tiny}\ntraining: {steps: 4, log_every: 1, workers: 2, cpus_per_worker: 1, threads_per_worker: 1, gpu: false}\n"
    (folder / "alone.yaml").write_text("name: alone\nobjective: {name: seqclr}\ndata: {unlabeled: {corpus: WORDS, batch_size: 8}}\n" + common, encoding="utf-8")
    (folder / "tuned.yaml").write_text("name: tuned\nobjective: {name: supervised}\ndata: {labeled: {corpus: WORDS, batch_size: 8}, validation: {corpus: HELD}}\n"
                                       "search: {optimizer.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}}\n" + common.replace("workers: 2", "workers: 1"), encoding="utf-8")
    return folder


def submit(head, folder: Path, *command: str) -> tuple[int, str]:
    """The status and what was shown of a job that is followed to its end."""
    done = subprocess.run([BIN / "ray", "job", "submit", "--working-dir", folder, "--", "python", "-m", *command], env=head[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500)
    return done.returncode, done.stdout


def test_a_corpus_a_pretraining_a_sweep_and_an_evaluation_as_jobs(head, working_folder):
    place = head[0]
    words, held, runs = (str(place / name) for name in ("words", "held", "runs"))
    status, shown = submit(head, working_folder, "pipelines.render", "--out", held, "-n", "60", "--style", "plain", "--seed", "1")
    assert status == 0 and "60 words" in shown, shown
    status, shown = submit(head, working_folder, "pipelines.pretrain", "alone.yaml", f"data.unlabeled.corpus={words}", f"runs={runs}")
    assert status == 0 and "step 4/4" in shown, shown  # the log is followed
    status, shown = submit(head, working_folder, "tuning.sweep", "tuned.yaml", f"data.labeled.corpus={words}", f"data.validation.corpus={held}", f"runs={runs}", "initialize_from=alone",
                           "--trials", "1", "--seeds", "0")
    assert status == 0, shown
    status, shown = submit(head, working_folder, "pipelines.evaluate", f"{runs}/tuned/trials/trial-recipe/model", "--data", f"held={held}", "--out", str(place / "report"), "--json")
    assert status == 0 and json.loads((place / "report" / "evaluation.json").read_text(encoding="utf-8"))["average"]["words"] == 60, shown
    from mlflow import MlflowClient
    client = MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    assert {found.info.run_name: found.info.status for found in client.search_runs(["1"])} == {"alone": "FINISHED", "tuned": "FINISHED", "trial-recipe": "FINISHED"}


def test_whoever_has_no_token_is_turned_away(head, working_folder):
    user = {name: value for name, value in head[1].items() if not name.startswith("RAY_AUTH")} | {"HOME": str(working_folder)}
    done = subprocess.run([BIN / "ray", "job", "submit", "--", "true"], env=user, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "uthenticat" in done.stdout + done.stderr


def test_a_job_that_would_leave_its_runs_where_ray_deletes_them_fails_and_says_why(head, working_folder):
    status, shown = submit(head, working_folder, "pipelines.pretrain", "alone.yaml", f"data.unlabeled.corpus={head[0]}/words")
    assert status == 1 and "failed with exit code 2" in shown and "textray: error: runs: expected a place that outlives the job, found runs/alone, in the copy of the working folder that Ray deletes: give a folder that every machine" in shown


@pytest.fixture
def copy_of_a_job(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("command, what", [
    (["render", "--out", "words", "-n", "4"], "--out"), (["ingest", "images", "--out", "words"], "--out"), (["predict", "models:/a/1", "images", "--out", "a.csv"], "--out"),
    (["evaluate", "models:/a/1", "--data", "a=b"], "--out"), (["compare", "models:/a/1", "models:/b/1", "--data", "a=b"], "--out"), (["split", "words"], "--out"),
    (["demo"], "--out"), (["adapt", "images", "--name", "mine"], "--out"), (["describe", "words", "--html", "page.html"], "--html"),
    (["describe", "words", "--suspects", "models:/a/1"], "--html"), (["pretrain", "seqclr_crnn_tiny"], "runs")])
def test_no_command_writes_where_ray_deletes(copy_of_a_job, command, what, capsys):
    assert run(command[0], command[1:]) == 2
    assert f"{what}: expected a place that outlives the job, found" in capsys.readouterr().err
    assert list(copy_of_a_job.iterdir()) == []


def test_nor_does_a_store_lie_there(copy_of_a_job, monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_URI: expected a place that outlives the job, found mlflow.db"):
        tracking_uri()
    for place in (str(tmp_path / "runs"), "s3://bucket/runs", "gs://bucket/a"):
        cluster.check_outlives(place, "runs")


def test_elsewhere_every_place_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cluster.check_outlives("runs", "runs")
    assert render_corpus(tmp_path / "words", 4, Settings(style="plain")).rows == 4
