"""The versions of a registered model: put one in, and read which one is the champion."""

import fcntl
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.reading.package import save_served
from pipelines.reading.weights import DESCRIPTION, model_bytes, model_files

CHAMPION = "champion"
LONGEST_NAME = 200  # characters
SHA256, REGISTERED = "model_sha256", "registered"  # tags of a version: which model, and that its registration came to its end


def add_version(store: str, experiment: str, name: str, recognizer: str | Path, *, run: str | None,
                tags: dict[str, str]) -> str:
    """Register a model folder as the next version of `name`; returns the version."""
    with registering(store, experiment, name, recognizer, run=run, tags=tags) as version:
        return version


@contextmanager
def registering(store: str, experiment: str, name: str, recognizer: str | Path, *, run: str | None, tags: dict[str, str]) -> Iterator[str]:
    """Register a model folder as the next version of `name`, and give the version to the block, which decides what becomes of it.

    Only then is the version marked as registered. Whoever is killed before, and comes again with the same model and name, goes on with what
    there is by then: the logged model, or the version. One process at a time does so for one model folder.

    Args:
        store: URI of the MLflow store.
        recognizer: the model folder, a path or URI.
        experiment: id of the experiment that holds the model.
        run: id of the run that trained it, if the store has it.
    """
    client = MlflowClient(tracking_uri=store)
    ensure_name(client, name)
    with _alone(recognizer):
        version = interrupted(store, name, recognizer)
        if version is None:
            tags = tags | {SHA256: _digest(recognizer)}
            model = _logged_model(client, experiment, name, recognizer, run, tags)
            version = str(client.create_model_version(name, f"models:/{model}", run_id=run, tags=tags, model_id=model).version)
        else:
            for key, value in tags.items():
                client.set_model_version_tag(name, version, key, value)
        yield version
        client.set_model_version_tag(name, version, REGISTERED, "yes")


def interrupted(store: str, name: str, recognizer: str | Path) -> str | None:
    """The version of `name` whose registration from this very model folder, or an equal one, was killed; None if there is none."""
    found = [version for version in _versions(MlflowClient(tracking_uri=store), name, recognizer) if REGISTERED not in version.tags]
    return str(found[0].version) if found else None


def _versions(client: MlflowClient, name: str, recognizer: str | Path) -> list[ModelVersion]:
    return [version for version in client.search_model_versions(f"tags.{SHA256} = '{_digest(recognizer)}'") if version.name == name]


def _digest(recognizer: str | Path) -> str:
    """Of the description, which holds that of the weights."""
    return hashlib.sha256(model_bytes(recognizer, DESCRIPTION)).hexdigest()


@contextmanager
def _alone(recognizer: str | Path) -> Iterator[None]:
    """Wait until no other process of this machine registers this model folder. In a store there are no locks."""
    if storage.is_remote(str(recognizer)):
        yield
        return
    with open(Path(recognizer) / DESCRIPTION, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _logged_model(client: MlflowClient, experiment: str, name: str, recognizer: str | Path, run: str | None, tags: dict[str, str]) -> str:
    """The id of a logged model with the folder's files, of which no version has been made: one that was begun, or a new one."""
    used = {version.source for version in _versions(client, name, recognizer)}
    begun = [model for model in client.search_logged_models([experiment], f"tags.{SHA256} = '{tags[SHA256]}'")
             if model.name == name and f"models:/{model.model_id}" not in used and model.status != LoggedModelStatus.FAILED]
    model = begun[0] if begun else client.create_logged_model(experiment, name=name, source_run_id=run, tags=tags)
    if model.status != LoggedModelStatus.READY:
        _upload(client, model, recognizer, run)
    outputs = client.get_run(run).outputs if run else None
    if run and model.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
        client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    return model.model_id


def _upload(client: MlflowClient, model: LoggedModel, recognizer: str | Path, run: str | None) -> None:
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
