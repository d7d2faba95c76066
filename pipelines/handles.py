"""Which MLflow store is meant, and a run in it, by names alone: what is known without MLflow, which takes seconds to import."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from pipelines.cluster import check_outlives
from pipelines.errors import BadInput, without_credentials


@dataclass(frozen=True)
class RunHandle:
    """A run of MLflow by its names alone: picklable, and as `dataclasses.asdict` writable into JSON."""

    uri: str
    experiment: str
    run: str


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or SQLite in the working folder; absolute, so that workers find the same store.

    Raises BadInput for a folder whose name holds a `?`: the path would end there, and the store lie elsewhere; and for one that is deleted with the job that runs in it.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme, separator, path = uri.partition(":///")
    if scheme != "sqlite" or not separator:
        return uri
    check_outlives(path, "MLFLOW_TRACKING_URI")
    if "/" in str(Path(path).absolute()).partition("?")[2]:
        raise BadInput(f"{Path(path).absolute()}: expected a folder for the MLflow store without ? in its name, found one with it, which MLflow cannot "
                       "open: work in another folder, or set MLFLOW_TRACKING_URI to a database elsewhere (sqlite:////path/mlflow.db) or a server")
    return f"{scheme}{separator}{Path(path).absolute()}"


def with_credentials(uri: str) -> str:
    """A store's URI as it was kept, without credentials, with those of the environment where that names the same store."""
    current = tracking_uri()
    return current if without_credentials(current) == uri else uri


def shown_uri() -> str:
    """The store's URI for a terminal, and for whoever pastes it into a shell: without credentials."""
    return shlex.quote(without_credentials(tracking_uri()))
