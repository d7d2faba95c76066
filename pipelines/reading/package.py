"""A recognizer as an MLflow model that carries its own code: the sources that `served.py` needs, and no others."""

import importlib.metadata
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow.pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

SIGNATURE = ModelSignature(Schema([ColSpec(DataType.binary, "image")]),
                           Schema([ColSpec(DataType.string, "text"), ColSpec(DataType.double, "confidence"), ColSpec(Array(DataType.double), "characters")]))
SERVING_REQUIREMENTS = ("mlflow", "torch", "numpy", "opencv-python-headless", "pandas", "pillow")
SERVING_SOURCES = ("__init__.py", "errors.py", "progress.py", "state.py", "checksum.py", "corpus/__init__.py", "corpus/image_formats.py", "corpus/images.py",
                   "corpus/pictures.py", "reading/__init__.py", "reading/batches.py", "reading/served.py",
                   "reading/weights.py")  # and models/


def serving_requirements() -> list[str]:
    """What the served model needs, at the versions that are installed here.

    A local part such as `+cpu` is left out: it names a build that the package index does not offer.
    """
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in SERVING_REQUIREMENTS]


@contextmanager
def serving_sources() -> Iterator[list[Path]]:
    """Folders `models` and `pipelines` with the sources that the served model needs and no others."""
    here = Path(__file__).parents[1]
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
        mlflow.pyfunc.save_model(str(target), python_model=str(sources[1] / "reading" / "served.py"),
                                 artifacts={"recognizer": str(recognizer)}, code_paths=[str(path) for path in sources],
                                 pip_requirements=serving_requirements(), signature=SIGNATURE, mlflow_model=about)
