"""The versions of a registered model: put one in, and read which one is the champion."""

import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipelines.errors import BadInput
from pipelines.reading.package import save_served
from pipelines.reading.weights import model_files

CHAMPION = "champion"
LONGEST_NAME = 200  # characters


def add_version(store: str, experiment: str, name: str, recognizer: str | Path, *, run: str | None,
                tags: dict[str, str]) -> str:
    """Register a model folder as the next version of `name`; returns the version.

    Args:
        store: URI of the MLflow store.
        recognizer: the model folder, a path or URI.
        experiment: id of the experiment that holds the model.
        run: id of the run that trained it, if the store has it.
    """
    client = MlflowClient(tracking_uri=store)
    ensure_name(client, name)
    model = client.create_logged_model(experiment, name=name, source_run_id=run, tags=tags)
    status = "FAILED"
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder, files = Path(temporary, "served"), Path(temporary, "model")
            files.mkdir()
            for file, content in model_files(recognizer).items():
                (files / file).write_bytes(content)
            save_served(folder, files, Model(artifact_path=model.artifact_location, model_uuid=model.model_id,
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


def check_name(name: str) -> None:
    """Raise BadInput, before any work, for a name that is longer than a registry takes."""
    if len(name) > LONGEST_NAME:
        raise BadInput(f"--name: expected at most {LONGEST_NAME} characters, found {len(name)}: choose a shorter name")


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
