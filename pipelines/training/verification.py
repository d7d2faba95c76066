"""Whether a run's folder holds what training wrote: its state, its recipe, its numbers, its checkpoints, its model."""

import hashlib
import io
import pickle
from collections.abc import Callable

import torch

from pipelines.corpus import storage
from pipelines.corpus.account import counted
from pipelines.corpus.verification import Findings
from pipelines.errors import BadInput
from pipelines.reading.verification import verify_model
from pipelines.reading.weights import DESCRIPTION
from pipelines.state import parse_json, parse_yaml
from pipelines.training.runs import RunState

RECORD = "checkpoint.json"  # beside state.pt: its bytes and sha256; runs from before have none
AGAIN = "copy the run again, or train it anew under another name="


def verify_run(folder: str) -> Findings:
    """Read every file of a run at a path or URI. A run that goes on while it is read may look torn at its last line."""
    findings = Findings("run")
    state = _looked(findings, lambda: parse_json(storage.read_bytes(storage.join(folder, "run.json")), RunState, f"{folder}/run.json", AGAIN))
    digest = _looked(findings, lambda: _digest(f"{folder}/recipe.yaml"))
    if state and digest and state.digest != digest:
        findings.damaged.append(f"{folder}/recipe.yaml: expected the recipe that the run was trained with (digest {state.digest}), found another "
                                f"({digest}): {AGAIN}")
    elif state and digest:
        findings.whole.append(f"run.json ({state.status}) and recipe.yaml")
    lines = _looked(findings, lambda: _numbers(f"{folder}/progress.jsonl"))
    if lines is not None:
        findings.whole.append(f"progress.jsonl with {counted(lines, 'line')}")
    _verify_checkpoints(storage.join(folder, "checkpoints"), findings)
    model = storage.join(folder, "model")
    if storage.kind(storage.join(model, DESCRIPTION)) is not None:
        found = verify_model(model)
        findings.whole += [f"model/{line}" for line in found.whole]
        findings.damaged += found.damaged
    elif state and state.status == "finished":
        findings.damaged.append(f"{model}: expected the model of a finished run, found none: say --resume to write it again, or {AGAIN}")
    return findings


def _looked(findings: Findings, look: Callable):
    """What `look` gives; None where it finds damage, which goes into the findings, or no file."""
    try:
        return look()
    except BadInput as problem:
        findings.damaged.append(str(problem))
    except FileNotFoundError as problem:
        findings.damaged.append(f"{problem.filename or problem}: expected this file of the run, found none: {AGAIN}")
    return None


def _digest(file: str) -> str:
    """Of the recipe as it was written, which a later version of textray may write otherwise."""
    text = storage.read_bytes(file)
    parse_yaml(text, file, AGAIN)
    return hashlib.sha256(text).hexdigest()[:16]


def _numbers(file: str) -> int | None:
    """How many lines were logged; None without a file. What a kill left of the last line does not count."""
    try:
        *lines, _ = storage.read_bytes(file).split(b"\n")
    except FileNotFoundError:
        return None
    for number, line in enumerate(lines, 1):
        parse_json(line, dict[str, int | float], f"{file}, line {number}", "remove this line, whose numbers are lost")
    return len(lines)


def _verify_checkpoints(place: str, findings: Findings) -> None:
    try:
        states = [entry.path for entry in storage.list_files(place) if entry.path.endswith("/state.pt")]
    except FileNotFoundError:
        return
    whole = 0
    for path in states:
        problem = _checkpoint_problem(storage.join(place, path))
        whole += problem is None
        if problem is not None:
            findings.damaged.append(f"{place}/{path}: expected a checkpoint as it was written, found {problem}: remove its folder, and the run goes "
                                    "on from the one before")
    findings.whole.append(f"checkpoints: {whole} of {len(states)}")


def _checkpoint_problem(file: str) -> str | None:
    data = storage.read_bytes(file)
    try:
        record = parse_json(storage.read_bytes(file.removesuffix("state.pt") + RECORD), dict[str, int | str], RECORD, AGAIN)
    except FileNotFoundError:
        record = {}
    except BadInput:
        return f"a damaged {RECORD}"
    if record and hashlib.sha256(data).hexdigest() != record.get("sha256"):
        return f"{len(data):,} bytes whose sha256 differs"
    try:
        torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as problem:
        return (str(problem).splitlines() or ["nothing"])[0][:150]
    return None
