"""What the driver settles before it starts a process: what readers may take of the cluster, and whether the corpora are the run's own."""

import signal
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import ray
from ray.train import TrainingFailedError

from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import write_quarantine
from pipelines.corpus.shards import ShardWriter
from pipelines.errors import BadInput
from pipelines.feed.datasource import Readers
from pipelines.training.crew import Job
from pipelines.training.distributed import interruptible, share_readers
from pipelines.training.driver import fingerprints, train
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder

STORE = 8 * 2**30


def share(monkeypatch, cpus: float, workers: int, streams: dict[str, str], reserved: float = 0.0, **training) -> Readers:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": cpus, "object_store_memory": STORE})
    recipe = parse_recipe({"name": "r", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
                           "data": {"labeled": {"corpus": "c", "batch_size": 2}}, "training": {"steps": 1, "workers": workers, **training}})
    return share_readers(recipe, {name: SimpleNamespace(paths=[path]) for name, path in streams.items()}, reserved)


def test_what_the_workers_leave_is_divided_among_all_tasks_that_read_for_them(monkeypatch, tmp_path):
    here = str(tmp_path)
    assert share(monkeypatch, 2, 1, {"labeled": here}) == Readers(1.0, STORE / 2)
    assert share(monkeypatch, 2, 1, {"labeled": here, "unlabeled": here}) == Readers(0.5, STORE / 4)
    assert share(monkeypatch, 3, 2, {"labeled": here}) == Readers(0.5, STORE / 4)  # one CPU is left, and two ranks read
    assert share(monkeypatch, 10, 2, {"labeled": "s3://bucket/c", "unlabeled": here}) == Readers(0.8, STORE / 8)  # four tasks at a time read from a store
    assert share(monkeypatch, 8, 2, {"labeled": here}, reserved=4) == Readers(1.0, STORE / 8)  # half of the cluster is others'


def test_a_cluster_on_which_a_rank_would_wait_for_ever_is_refused(monkeypatch, tmp_path):
    with pytest.raises(BadInput, match=r"2 workers with 1 CPUs each leave 0 of 2 CPUs for the 4 tasks that read for them, which need at least 0.2; set "
                                       r"training.cpus_per_worker=0.8, or lower training.workers"):
        share(monkeypatch, 2, 2, {"labeled": str(tmp_path), "unlabeled": str(tmp_path)})
    assert share(monkeypatch, 2, 2, {"labeled": str(tmp_path), "unlabeled": str(tmp_path)}, cpus_per_worker=0.8).cpus == pytest.approx(0.1)
    with pytest.raises(BadInput, match="take a larger cluster, or lower training.workers"):
        share(monkeypatch, 0.2, 2, {"labeled": str(tmp_path), "unlabeled": str(tmp_path)}, cpus_per_worker=0.1)


def corpus(folder: Path, words: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, "made", 0) as writer:
        for number, word in enumerate(words):
            image = cv2.imencode(".png", np.full((32, 100, 3), number, np.uint8))[1].tobytes()
            writer.write(key=f"made/{number}", image=image, text=word, width=100, height=32, phash=0)
    write_quarantine(folder)
    write_manifest(folder, [writer.entry], {"made": SourceCounts(rows_in=len(words), kept=len(words), labeled=len(words))}, {})
    return folder


@pytest.mark.parametrize("changed", ["labeled", "unlabeled", "validation"])
def test_a_run_does_not_go_on_with_another_corpus(tmp_path, changed):
    """One label differs, or one row: the order of the rows, and what was learned of them, would silently be another's."""
    places = {name: corpus(tmp_path / name, ["one", "two", "three", "four"]) for name in ("labeled", "unlabeled", "validation")}
    recipe = parse_recipe({"name": "r", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr"}, "training": {"steps": 1}, "runs": str(tmp_path / "runs"),
                           "data": {"labeled": {"corpus": str(places["labeled"]), "batch_size": 2},
                                    "unlabeled": {"corpus": [str(places["unlabeled"])], "batch_size": 2},
                                    "validation": {"corpus": str(places["validation"])}}})
    folder = RunFolder(tmp_path / "runs" / "r")
    with folder.claimed(recipe, resume=False) as state:
        state.corpora, state.lanes = fingerprints(recipe), 8
        folder.write(state)
    before = {file.name: file.read_bytes() for file in folder.path.iterdir()}
    corpus(places[changed], ["one", "two", "three", "five"])
    with pytest.raises(BadInput, match=f"expected the corpus that the run began with in {places[changed]} .sha256 .*, found another one there .*: bring the old"):
        train(recipe)
    assert {file.name: file.read_bytes() for file in folder.path.iterdir()} == before
    corpus(places[changed], ["one", "two", "three", "four"])
    state.check_corpora(fingerprints(recipe))  # the old one again


def test_ctrl_c_during_training_is_an_interrupt_and_ray_keeps_no_hand_on_it():
    """Ray Train replaces the handler of SIGINT and ends the process with status 0; a run that was interrupted would count as done, or as failed."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.signal(signal.SIGINT, lambda *_: None)
        raise SystemExit(0)
    assert signal.getsignal(signal.SIGINT) is before
    with interruptible():
        signal.signal(signal.SIGINT, lambda *_: None)
    assert signal.getsignal(signal.SIGINT) is before


def test_failures_count_only_without_a_new_checkpoint_between_them(ray_session, tmp_path, monkeypatch, capfd):
    """A run of weeks on machines that come and go; Ray's own trainer, which counts over the whole life of a run, is replaced by one that always loses its workers."""
    from pipelines.training import distributed
    recipe = parse_recipe({"name": "long", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "data": {}, "training": {"steps": 100, "gpu": False}})
    kept, begun = iter([10, 20, 20]), []

    class Losing:
        def __init__(self, work, train_loop_config, **_):
            begun.append(train_loop_config["job"].done)

        def fit(self):
            raise TrainingFailedError("a worker was lost")
    monkeypatch.setattr(distributed, "TorchTrainer", Losing)
    monkeypatch.setattr(distributed.checkpoints, "newest_whole", lambda place: (SimpleNamespace(step=next(kept)), {}))
    monkeypatch.setattr(distributed.checkpoints, "forget", lambda place, torn: None)
    engine = distributed.OnRay()
    engine._readers = None
    with pytest.raises(TrainingFailedError):
        engine.fit(recipe, Job(recipe.model_dump(mode="json"), {}, str(tmp_path)), RunFolder(tmp_path))
    assert begun == [0, 10, 20]  # and no fourth time: nothing was kept since
    assert capfd.readouterr().err.count("workers were lost or failed more than 2 times, but the run has come to step") == 2
