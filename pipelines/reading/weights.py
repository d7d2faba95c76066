"""A recognizer as files: recognizer.json says how to build it, weights.pt holds its tensors and nothing that runs.

What training writes and evaluation, prediction and the registry read. The served model reads it too, in a process that
has PyTorch and NumPy but neither Ray nor the rest of this package's requirements: import nothing else here.
"""

import hashlib
import io
import json
import math
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from models.charset import Charset
from models.recognizer import Recognizer
from models.recognizers import build
from pipelines.checksum import CHECKSUM, intact, with_checksum
from pipelines.errors import BadInput, Unavailable
from pipelines.progress import warn
from pipelines.state import parse_json

DESCRIPTION, WEIGHTS = "recognizer.json", "weights.pt"


class Description(BaseModel):
    """What recognizer.json holds; whoever writes a model may add more."""

    model_config = ConfigDict(extra="allow")

    name: str
    charset: str
    overrides: dict[str, Any]
    weights_sha256: str
    trained: list[str] | None = None  # the parts that were trained, of a pretrained model
    run: str = ""


def save_recognizer(folder: str | Path, recognizer: Recognizer, extra: Mapping[str, Any] | None = None) -> str | Path:
    """Write a recognizer into a folder, a path or URI; `extra` (JSON values, such as the recipe's name) goes into recognizer.json.

    Equal weights give equal files. Each file is replaced whole; recognizer.json comes last and holds the sha256 of
    weights.pt and a checksum of itself, so a folder whose writing was interrupted is recognised, and one that was changed.

    Returns:
        The folder.
    """
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in recognizer.state_dict().items()}, buffer)
    weights = buffer.getvalue()
    description = {**(extra or {}), "name": recognizer.name, "charset": recognizer.charset.characters,
                   "overrides": recognizer.overrides, "temperature": recognizer.temperature,
                   "weights_sha256": hashlib.sha256(weights).hexdigest()}
    _replace(folder, WEIGHTS, weights)
    _write_description(folder, description)
    return folder


def save_temperature(folder: str | Path, temperature: float) -> None:
    """Change the temperature that recognizer.json holds, and nothing else; the file is replaced whole."""
    _write_description(folder, {**read_description(folder), "temperature": temperature})


def _write_description(folder: str | Path, description: Mapping[str, Any]) -> None:
    _replace(folder, DESCRIPTION, (json.dumps(with_checksum(description), indent=2, ensure_ascii=False) + "\n").encode())


def _replace(folder: str | Path, name: str, content: bytes) -> None:
    from pipelines.corpus import storage  # only here and below: a served model has its folder and knows no stores
    storage.write_bytes(storage.join(str(folder), name), content)


def _is_uri(place: str | Path) -> bool:
    return "://" in str(place)


def _holds(place: str | Path, name: str) -> bool:
    """Whether a folder, a path or URI, holds a file."""
    if not _is_uri(place):
        return Path(place, name).is_file()
    from pipelines.corpus import storage
    return storage.kind(storage.join(str(place), name)) == "file"


def model_bytes(folder: str | Path, name: str) -> bytes:
    """A file of a model folder, a path or URI, whole. Raises FileNotFoundError."""
    if not _is_uri(folder):
        return Path(folder, name).read_bytes()
    from pipelines.corpus import storage
    return storage.read_bytes(storage.join(str(folder), name))


def model_files(folder: str | Path) -> dict[str, bytes]:
    """Both files of a model folder, a path or URI, by name."""
    return {name: model_bytes(folder, name) for name in (DESCRIPTION, WEIGHTS)}


def warn_of_decoder(about: dict[str, Any], name: str) -> None:
    """Say of a model that was pretrained alone that its decoder is as it was drawn at random: what it reads means nothing."""
    if "decoder" not in (about.get("trained") or ["decoder"]):
        warn(f"{name} was pretrained only ({about.get('objective', 'without labels')}), and its decoder has learned nothing: what it reads is chance; "
              f"fine-tune it first (textray finetune RECIPE initialize_from={name})")


def find_model(where: str | Path, runs: str | Path = "runs") -> str | Path:
    """The model folder that `where` means, a path of this machine or the URI of one in an object store.

    Args:
        where: a model folder, a run's folder (its `model/`), the name of a run under `runs`, or a registered model:
            `models:/NAME@champion` (for short NAME@champion), `models:/NAME/3`.

    Raises:
        BadInput: there is no model there.
    """
    where = in_full(where) if isinstance(where, str) else where
    if str(where).startswith("models:/"):
        return _registered(str(where))
    places = [where, _below(where, "model")] + ([] if _is_uri(where) else [_below(runs, str(where)), _below(runs, f"{where}/model")])
    for place in places:
        if _holds(place, DESCRIPTION):
            return place if _is_uri(place) else Path(place)
    if any(_holds(place, WEIGHTS) for place in places):
        raise BadInput(f"{where} holds {WEIGHTS} but no {DESCRIPTION}: its writing was interrupted; train or copy it "
                       "again")
    if any(_holds(place, "run.json") or (not _is_uri(place) and Path(place).is_dir()) for place in places):
        raise BadInput(f"expected a model ({DESCRIPTION} and {WEIGHTS}) in {where} or in its folder model/, found "
                       "neither: has the run finished?")
    raise BadInput(f"expected a model, found none called {where}: give a run's name under {runs}/, a run's or a "
                   "model's folder, or a registered model such as models:/NAME@champion")


def _below(folder: str | Path, name: str) -> str | Path:
    return f"{str(folder).rstrip('/')}/{name}" if _is_uri(folder) else Path(folder, name)


def in_full(where: str) -> str:
    """`words@champion` as the registry says it, models:/words@champion; all else, and what lies here under such a name, as it is."""
    return f"models:/{where}" if re.fullmatch(r"[^/@:]+@[^/@:]+", where) and not os.path.exists(where) else where


def pinned(where: str) -> str:
    """A registered model by a name that never means another: models:/NAME@champion becomes models:/NAME/3. Others as they are.

    Raises:
        BadInput: there is no such model.
    """
    where = in_full(where)
    alias = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/latest)", where)
    if alias is None:
        return where
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from pipelines.tracking import prepare_store
    client = MlflowClient(tracking_uri=prepare_store()[0])
    try:
        versions = [client.get_model_version_by_alias(*alias.groups())] if alias[2] else client.search_model_versions(f"name='{alias[1]}'")
        return f"models:/{alias[1]}/{max(int(found.version) for found in versions)}"
    except (MlflowException, ValueError):
        raise BadInput(f"expected a registered model at {where}, found none; `textray register` puts one there") from None


def _registered(uri: str) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    from pipelines.tracking import is_away, prepare_store  # only here: a served model has its folder and asks no registry
    store, _ = prepare_store()
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=store, registry_uri=store))
    except (MlflowException, OSError) as problem:
        reason = str(problem).splitlines()[0]
        if is_away(store, problem):
            raise Unavailable(f"the registry {store} does not give {uri} now ({reason}): repeat the command when it is back") from None
        raise BadInput(f"the registry {store} gives no model for {uri} ({reason}); `textray register` puts one "
                       "there") from None
    return model_inside(folder)


def model_inside(folder: Path) -> Path:
    """The model folder inside an MLflow model that `textray register` made."""
    found = sorted(folder.glob(f"artifacts/*/{DESCRIPTION}"))
    if not found:
        raise BadInput(f"the MLflow model in {folder} holds no {DESCRIPTION}: it was not made by `textray register`")
    return found[0].parent


def read_description(folder: str | Path) -> dict[str, Any]:
    """What recognizer.json of a model folder, a path or URI, holds, but for its checksum, which is looked at here.

    Raises:
        BadInput: it is not there, or not what `save_recognizer` wrote.
    """
    file = str(_below(folder, DESCRIPTION))
    try:
        data = model_bytes(folder, DESCRIPTION)
    except FileNotFoundError:
        raise BadInput(f"expected {file}, found no such file") from None
    parse_json(data, Description, file, "this is not the description of a recognizer; train or copy the model again")
    description = json.loads(data)
    if not intact(description):
        raise BadInput(f"{file} is not what was written when the model was made (its checksum differs): it was edited or damaged; train or "
                       "copy the model again")
    return {key: value for key, value in description.items() if key != CHECKSUM}


def load_recognizer(where: str | Path, runs: str | Path = "runs") -> Recognizer:
    """Build the recognizer that `where` means (see `find_model`) and load its weights, on the CPU and in eval mode.

    Raises:
        BadInput: no model there, weights that are not those of the description, or that do not fit this recognizer.
    """
    folder = find_model(where, runs)
    description = read_description(folder)
    file = _below(folder, WEIGHTS)
    try:
        weights = model_bytes(folder, WEIGHTS)
    except FileNotFoundError:
        raise BadInput(f"expected {file} beside {DESCRIPTION}, found no such file") from None
    if hashlib.sha256(weights).hexdigest() != description["weights_sha256"]:
        raise BadInput(f"{file} is not the file that {DESCRIPTION} describes (sha256 differs): it was "
                       "changed, or its writing was interrupted; train or copy it again")
    try:
        recognizer = build(description["name"], Charset(description["charset"]), **description["overrides"])
        _check_sizes(recognizer)
        recognizer.temperature = _temperature(description)
        state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
        _check_fit(recognizer.state_dict(), state)
    except (ValueError, TypeError, KeyError, ArithmeticError, RuntimeError, EOFError, pickle.UnpicklingError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise BadInput(f"the model in {folder} cannot be loaded by this version: {reason}") from None
    recognizer.load_state_dict(state)
    return recognizer.eval().to(memory_format=torch.channels_last)  # a fifth faster


def _check_sizes(recognizer: Recognizer) -> None:
    for name in ("height", "width", "max_length"):
        value = getattr(recognizer, name)
        if type(value) is not int or not 0 < value < 1 << 16:
            raise ValueError(f"{name}: expected a whole number above 0, found {value!r}")


def _temperature(description: Mapping[str, Any]) -> float:
    temperature = description.get("temperature", 1.0)  # descriptions of models from before there was one
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature: expected a number above 0, found {temperature!r}: set it to 1.0 in {DESCRIPTION}, "
                         "then calibrate again")
    return float(temperature)


def _check_fit(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ValueError(f"{WEIGHTS} holds something else than tensors by name")
    differences = [f"missing {name}" for name in wanted if name not in found]
    differences += [f"unexpected {name}" for name in found if name not in wanted]
    differences += [f"{name} is {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
                    for name in wanted if name in found and wanted[name].shape != found[name].shape]
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ValueError(f"the weights do not fit: {'; '.join(differences[:5])}{more}")


def file_safe(model: str) -> str:
    """A model's name as a file name: `models:/words@champion` becomes `models-words-champion`."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", model).strip("-.") or "model"
