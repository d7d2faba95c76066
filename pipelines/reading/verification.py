"""Whether a model is, byte for byte, what was written, and can be loaded."""

import tempfile
from pathlib import Path

import torch

from pipelines.corpus import storage
from pipelines.corpus.verification import Findings
from pipelines.errors import BadInput
from pipelines.reading.weights import DESCRIPTION, WEIGHTS, load_recognizer


def verify_model(folder: str) -> Findings:
    """Compare a model folder at a path or URI with the checksums that it carries, build it, and look at every number in it."""
    findings = Findings("model")
    with tempfile.TemporaryDirectory() as temporary:
        try:
            recognizer = load_recognizer(_here(folder, Path(temporary)))
        except BadInput as problem:
            findings.damaged.append(str(problem).replace(temporary, folder))
            return findings
    tensors = recognizer.state_dict()
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if broken:
        findings.damaged.append(f"{WEIGHTS}: expected finite numbers, found others in {len(broken)} of {len(tensors)} tensors, as {broken[0]}: "
                                "train the model again")
    findings.whole.append(f"{DESCRIPTION} and {WEIGHTS}: {recognizer.name} with {len(recognizer.charset)} characters and "
                          f"{sum(parameter.numel() for parameter in recognizer.parameters()):,} parameters")
    return findings


def _here(folder: str, temporary: Path) -> Path:
    """The folder on this machine; what lies in a store is copied into `temporary` first."""
    if not storage.is_remote(folder):
        return Path(storage.absolute(folder))
    for name in (DESCRIPTION, WEIGHTS):
        try:
            (temporary / name).write_bytes(storage.read_bytes(storage.join(folder, name)))
        except FileNotFoundError:
            continue  # which `load_recognizer` says
    return temporary
