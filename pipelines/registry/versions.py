"""The versions of a registered model: put one in, and read which one is the champion."""

import fcntl
import hashlib
import tempfile
import time
import uuid
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

CHAMPION, CHALLENGER = "champion", "challenger"
BEFORE = "champion_before"  # tag of a version: which one was champion when it became it
PROMOTING = "promoting"  # tag of a registered model: who moves its champion now, and until when at most
LEASE, SETTLED = 60.0, 1.0  # seconds: of that tag, and within which a write of another process is seen
LONGEST_NAME, LONGEST_DESCRIPTION = 200, 5000  # characters
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
    return alias_of(store, name, CHAMPION)


def alias_of(store: str, name: str, alias: str) -> str | None:
    """The version of `name` that has an alias; None if none has."""
    try:
        return str(MlflowClient(tracking_uri=store).get_model_version_by_alias(name, alias).version)
    except MlflowException as problem:
        if problem.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def crown(store: str, name: str, version: str) -> None:
    """Make a version the champion. It is noted which one was before it, for `textray rollback`."""
    client, before = MlflowClient(tracking_uri=store), champion_of(store, name)
    if before == version:
        return
    if before is not None:
        client.set_model_version_tag(name, version, BEFORE, before)
    client.set_registered_model_alias(name, CHAMPION, version)
    if alias_of(store, name, CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)


def move(store: str, name: str, version: str, now: str) -> None:
    """Make a version the champion in place of the one of now. What was before it stays before it; of a later one that never was champion it is that one."""
    client = MlflowClient(tracking_uri=store)
    if int(version) > int(now) and BEFORE not in client.get_model_version(name, version).tags:
        client.set_model_version_tag(name, version, BEFORE, now)
    client.set_registered_model_alias(name, CHAMPION, version)


def before(store: str, name: str, version: str) -> str | None:
    """The version that was champion before this one became it; None if it was the first."""
    return MlflowClient(tracking_uri=store).get_model_version(name, version).tags.get(BEFORE)


def check_version(store: str, name: str, version: str) -> None:
    """Raise BadInput if there is no such version."""
    client = MlflowClient(tracking_uri=store)
    known = sorted((int(each.version) for each in client.search_model_versions(f"name='{name}'")))
    if not version.isdecimal() or int(version) not in known:
        raise BadInput(f"--to: expected a version of {name} ({', '.join(map(str, known))}), found {version}: correct it")


def run_of(store: str, uri: str) -> str | None:
    """The run that a version, models:/NAME/VERSION, came from; None if the store does not know it."""
    name, _, version = uri.removeprefix("models:/").rpartition("/")
    return MlflowClient(tracking_uri=store).get_model_version(name, version).run_id or None


def describe(store: str, name: str, version: str, text: str) -> None:
    """Write the description of a version, which MLflow shows as Markdown; as much of it as its database takes."""
    whole = text if len(text) <= LONGEST_DESCRIPTION else text[:LONGEST_DESCRIPTION - 2].rstrip() + "\n…"
    MlflowClient(tracking_uri=store).update_model_version(name, version, description=whole)


def challenge(store: str, name: str, version: str) -> None:
    """Make a version the challenger: the last one that was registered and is not the champion."""
    MlflowClient(tracking_uri=store).set_registered_model_alias(name, CHALLENGER, version)


@contextmanager
def promoting(store: str, name: str) -> Iterator[None]:
    """While it lasts, nobody else moves the champion of `name`: neither a process of this machine nor one elsewhere.

    A registry has no locks, but it has tags: who finds none writes its own, waits until all writes of others are seen, and goes on if its own is the last. One that a
    killed process left counts for LEASE seconds.
    """
    client, token = MlflowClient(tracking_uri=store), uuid.uuid4().hex
    while True:
        holder = client.get_registered_model(name).tags.get(PROMOTING, "")
        if holder and float(holder.partition(" ")[2]) > time.time():
            time.sleep(SETTLED / 2)
            continue
        client.set_registered_model_tag(name, PROMOTING, f"{token} {time.time() + LEASE}")
        time.sleep(SETTLED)
        if client.get_registered_model(name).tags.get(PROMOTING, "").startswith(token):
            break
    try:
        yield
    finally:
        client.delete_registered_model_tag(name, PROMOTING)
