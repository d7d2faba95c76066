"""Checkpoints: the newest whole one is taken, whatever became of the others and of Ray's list."""

import os
from pathlib import Path

import pytest
import torch

from pipelines.training.checkpoints import RAY_LIST, RECORD, STATE, forget, newest_whole, prune, write_checkpoint


@pytest.fixture
def place(tmp_path) -> Path:
    """Checkpoints of steps 2, 4 and 6; the clock went backwards before the last, and Ray's list is empty."""
    for name, step in (("checkpoint_2026-01-01_00-00-01.000000", 2), ("checkpoint_2026-01-01_00-00-02.000000", 4),
                       ("checkpoint_2025-12-31_23-59-59.000000", 6)):
        (tmp_path / name).mkdir()
        write_checkpoint(tmp_path / name, step, {"step": step, "weights": torch.full((100,), float(step))})
    (tmp_path / RAY_LIST).touch()
    return tmp_path


def of_step(place: Path, step: int) -> Path:
    [found] = [folder for folder in place.glob("checkpoint_2*") if f'"step": {step},' in (folder / RECORD).read_text(encoding="utf-8")]
    return found


def test_the_newest_is_the_one_of_the_last_step(place):
    found, torn = newest_whole(str(place))
    assert (found.step, torn, found.state()["weights"][0].item()) == (6, {}, 6.0)


SPOILED = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-100]),
    "empty": lambda file: file.write_bytes(b""),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "a bit flipped": lambda file: file.write_bytes(bytes([*file.read_bytes()[:700], file.read_bytes()[700] ^ 1, *file.read_bytes()[701:]])),
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir())}


@pytest.mark.parametrize("name", [STATE, RECORD])
@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_damaged_one_is_never_taken_and_the_one_before_is(place, spoiled, name):
    if (spoiled, name) == ("a bit flipped", RECORD):
        return  # it is shorter
    damaged = of_step(place, 6)
    if (spoiled, name) != ("longer", RECORD):
        SPOILED[spoiled](damaged / name)
    else:
        (damaged / name).write_text('{"step": "6"}', encoding="utf-8")
    found, torn = newest_whole(str(place))
    assert found.step == 4 and list(torn) == [damaged.name]
    forget(str(place), torn)
    assert sorted(os.listdir(place)) == sorted([of_step(place, 2).name, of_step(place, 4).name])


def test_where_none_is_whole_there_is_none(place):
    for file in place.glob(f"*/{STATE}"):
        file.write_bytes(b"PK")
    found, torn = newest_whole(str(place))
    assert found is None and set(torn.values()) == {f"{STATE} has 2 bytes instead of {record_bytes:,}" for record_bytes in sizes(place)}
    assert newest_whole(str(place / "nowhere")) == (None, {})


def sizes(place: Path) -> set[int]:
    import json
    return {json.loads(file.read_text(encoding="utf-8"))["bytes"] for file in place.glob(f"*/{RECORD}")}


def test_so_many_are_kept_as_the_recipe_says(place):
    prune(str(place), 2)
    assert newest_whole(str(place))[0].step == 6
    assert {of_step(place, step).name for step in (4, 6)} == set(os.listdir(place)) - {RAY_LIST}


@pytest.fixture
def tagged_as_cuda():
    """Tensors that are saved in this test say that they lay on the first GPU, as those of a run that had one do."""
    torch.serialization.register_package(1, lambda storage: "cuda:0", lambda storage, location: None)
    yield
    torch.serialization._package_registry[:] = [entry for entry in torch.serialization._package_registry if entry[0] != 1]


def test_a_checkpoint_of_a_run_that_had_a_gpu_is_read_without_one(tmp_path, tagged_as_cuda):
    (tmp_path / "checkpoint_2026").mkdir()
    write_checkpoint(tmp_path / "checkpoint_2026", 3, {"objective": {"weight": torch.arange(5.0)}})
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "checkpoint_2026" / STATE, weights_only=True)
    tensor = newest_whole(str(tmp_path))[0].state()["objective"]["weight"]
    assert tensor.device == torch.device("cpu") and tensor.tolist() == [0, 1, 2, 3, 4]
