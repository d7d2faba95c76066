"""The MLflow registry: put a recognizer in as a model that carries its own code, and read which one is the champion."""

import importlib.metadata
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from pipelines.errors import BadInput

CHAMPION = "champion"
SIGNATURE = ModelSignature(Schema([ColSpec(DataType.binary, "image")]),
                           Schema([ColSpec(DataType.string, "text"), ColSpec(DataType.double, "confidence")]))
SERVING_REQUIREMENTS = ("mlflow", "torch", "numpy", "opencv-python-headless", "pandas")
SERVING_SOURCES = ("__init__.py", "errors.py", "corpus/__init__.py", "corpus/images.py", "reading.py", "served.py", "weights.py")  # and models/


def serving_requirements() -> list[str]:
    """What the served model needs, at the versions that are installed here.

    A local part such as `+cpu` is left out: it names a build that the package index does not offer.
    """
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in SERVING_REQUIREMENTS]


@contextmanager
def serving_sources() -> Iterator[list[Path]]:
    """Folders `models` and `pipelines` with the sources that the served model needs and no others."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as temporary:
        models, pipelines = Path(temporary, "models"), Path(temporary, "pipelines")
        shutil.copytree(here.parent / "models", models, ignore=shutil.ignore_patterns("__pycache__"))
        for name in SERVING_SOURCES:
            (pipelines / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(here / name, pipelines / name)
        yield [models, pipelines]


def save_served(target: Path, recognizer: Path, about: Model | None = None) -> None:
    """Write the model folder `recognizer` as an MLflow model (pyfunc, from code) into the new folder `target`."""
    with serving_sources() as sources, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*An input example was not provided")  # the signature says it all
        mlflow.pyfunc.save_model(str(target), python_model=str(sources[1] / "served.py"),
                                 artifacts={"recognizer": str(recognizer)}, code_paths=[str(path) for path in sources],
                                 pip_requirements=serving_requirements(), signature=SIGNATURE, mlflow_model=about)


def add_version(store: str, experiment: str, name: str, recognizer: Path, *, run: str | None,
                tags: dict[str, str]) -> str:
    """Register a model folder as the next version of `name`; returns the version.

    Args:
        store: URI of the MLflow store.
        experiment: id of the experiment that holds the model.
        run: id of the run that trained it, if the store has it.
    """
    client = MlflowClient(tracking_uri=store)
    ensure_name(client, name)
    model = client.create_logged_model(experiment, name=name, source_run_id=run, tags=tags)
    status = "FAILED"
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "model")
            save_served(folder, recognizer, Model(artifact_path=model.artifact_location, model_uuid=model.model_id,
                                                  run_id=run, model_id=model.model_id))
            client.log_model_artifacts(model.model_id, str(folder))
        status = "READY"
    finally:
        client.finalize_logged_model(model.model_id, status)
    if run:
        client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    version = client.create_model_version(name, f"models:/{model.model_id}", run_id=run, tags=tags,
                                          model_id=model.model_id)
    return str(version.version)


def ensure_name(client: MlflowClient, name: str) -> None:
    """Create the registered model `name` if it does not exist.

    Raises:
        BadInput: MLflow refuses the name.
    """
    try:
        client.create_registered_model(name)
    except MlflowException as problem:
        if problem.error_code != "RESOURCE_ALREADY_EXISTS":
            raise BadInput(f"--name: MLflow refuses {name!r}: {str(problem).splitlines()[0]}") from None


def champion_of(store: str, name: str) -> str | None:
    """The version of `name` that is the champion; None if there is none yet."""
    try:
        return str(MlflowClient(tracking_uri=store).get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as problem:
        if problem.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def crown(store: str, name: str, version: str) -> None:
    """Make a version the champion."""
    MlflowClient(tracking_uri=store).set_registered_model_alias(name, CHAMPION, version)
