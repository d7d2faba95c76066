"""An evaluation in MLflow: a run of its own, below the run that trained the model, with its numbers and its page."""

from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric

from pipelines import tracking
from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.evaluation.measure import Result, total
from pipelines.evaluation.metrics import Score
from pipelines.handles import RunHandle
from pipelines.reading.weights import find_model, pinned
from pipelines.registry.versions import run_of
from pipelines.reports.evaluation import FILES
from pipelines.training.record import handle_of


def track(model: str, results: list[Result], folder: str) -> str:
    """Record an evaluation, whose report lies in a folder; returns the id of its run.

    It is a child of the run that trained the model, if the store has that one: by the model's folder, or by the registered version.

    Raises:
        BadInput: the store cannot be used, or it took only a part.
    """
    store, experiment = tracking.prepare_store()
    trained = _trained(model, store)
    handle = tracking.start_run(f"evaluate {model}", tags={"evaluated": pinned(model)},
                                parent=RunHandle(store, experiment, trained) if trained else None)
    scores = {result.words.name: result.evaluation.score for result in results} | {"average": total(results)}
    points = [Metric(f"{_safe(name)}.{what}", value, 0, 0) for name, score in scores.items() for what, value in _numbers(score).items()]
    problem = tracking.complete(handle, "FINISHED", points=points, files=lambda: _files(folder))
    if problem is not None:
        raise BadInput(f"--track: expected an MLflow store that takes the evaluation, found {store} which does not ({problem}): repeat the command when it is back")
    return handle.run


def _trained(model: str, store: str) -> str | None:
    name = pinned(model)
    if name.startswith("models:/"):
        return run_of(store, name)
    handle = handle_of(storage.absolute(str(find_model(name))))
    return handle.run if handle and tracking.find_run(handle.run, store) else None


def _numbers(score: Score) -> Mapping[str, float]:
    low, high = score.interval
    return {"words": score.words, "accuracy": score.accuracy, "accuracy_low": low, "accuracy_high": high, "one_minus_ned": score.one_minus_ned, "cer": score.cer,
            "confidence": score.confidence, "ece": score.calibration_error}


def _files(folder: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(storage.join(folder, name)) for name in FILES}


def _safe(name: str) -> str:
    """The name of a set as MLflow takes it in the name of a metric."""
    return "".join(character if character.isalnum() or character in "_-. /" else "_" for character in Path(name).name)
