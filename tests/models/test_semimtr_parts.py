"""SemiMTR's parts: what the authors' code gives for recorded logits, and the slow plain form of what it does."""

import math

import pytest
import torch
from torch import Tensor, nn

from models.decoders import Decoded
from models.decoders.abinet import ABINetDecoder
from models.families.abinet import CHARSET
from models.objectives.moving_average import follow
from models.objectives.semimtr import MODALITIES, SHORTEST, Teaching, consistency_losses, recognition_losses, word_steps

THEIRS = {"vision": "vision", "language": "language", "fusion": "alignment"}
LIMITS = {torch.float64: 1e-6, torch.float32: 5e-6}  # the record is in float32


@pytest.fixture(scope="module")
def record(parity_data):
    return torch.load(parity_data / "semimtr.pt", weights_only=True)


CASES = ["released_train", "released_eval", "self_hard_ce_thr", "self_hard_kl", "self_soft_ce", "self_soft_ce_thr", "self_soft_kl_thr",
         "self_soft_ce_teachergrad", "self_hard_ce_thr05", "self_hard_ce_eval", "vision_to_vision_hard_ce", "vision_to_language_hard_ce",
         "language_to_all_hard_ce", "language_to_vision_hard_ce", "language_to_alignment_hard_ce", "alignment_to_all_hard_ce",
         "alignment_to_language_hard_ce", "alignment_to_alignment_hard_ce", "alignment_to_all_soft_kl_thr_eval", "weights"]


def leaves(inputs: dict, side: str, train_mode: int, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The recorded logits of a side, by their names there, and as our branches: all iterations, or the last alone."""
    numbers = range(3) if train_mode else [2]
    logits = {f"{side}_vision": None} | {f"{side}_{name}{number}": None for name in ("language", "alignment") for number in numbers}
    logits = {name: inputs[name].to(dtype, copy=True).requires_grad_(True) for name in logits}
    branches = {"vision": logits[f"{side}_vision"]}
    for name in ("language", "fusion"):
        branches[name] = torch.stack([logits[f"{side}_{THEIRS[name]}{number}"] for number in numbers])
    return logits, branches


def teaching(options: dict) -> Teaching:
    """Ours for the arguments of their constructor."""
    ours = {theirs: name for name, theirs in THEIRS.items()}
    itself = bool(options.get("all_teacher_layers_to_all_student_layers"))
    student = options.get("student_layer", "all")
    return Teaching(teacher="itself" if itself else ours[options["teacher_layer"]],
                    student="all" if itself or student == "all" else ours[student],
                    labels="hard" if options.get("teacher_one_hot_labels") else "soft",
                    distance="kl" if options.get("consistency_kl_div") else "cross_entropy",
                    confidence_threshold=options.get("threshold_value", 0.9) if options.get("use_threshold") else None,
                    stop_gradient=bool(options.get("teacher_stop_gradients", 1)))


def loss_of(record: dict, case: dict, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    inputs = record["consistency"]["inputs"]
    weights = dict(zip(("fusion", "language", "vision"), case["modality_weights"], strict=True))
    leaf, branches = {}, {}
    for side in ("teacher", "student"):
        logits, branches[side] = leaves(inputs, side, case["train_mode"], dtype)
        leaf |= logits
    consistency = consistency_losses(branches["teacher"], branches["student"], 0, teaching(case["options"])).by_student
    loss = case["outer_weight"] * sum(weights[name] * consistency[name] for name in MODALITIES)
    if case["options"].get("supervised_flag"):
        loss = loss + sum(weights[name] * value for side in branches.values() for name, value in supervised(inputs, side).items())
    return loss, leaf


def supervised(inputs: dict, branches: dict[str, Tensor]) -> dict[str, Tensor]:
    """The labeled words are the first and the third there, the first and the second here."""
    order = torch.tensor([0, 2, 1, 3])
    targets = nn.functional.pad(inputs["gt_label_ids"][inputs["gt_lengths"] > 0], (1, 0))  # a start symbol before each word
    assert inputs["gt_lengths"].tolist() == [6, 0, 4, 0]
    branches = {name: branch[..., order, :, :] for name, branch in branches.items()}
    decoder = ABINetDecoder(CHARSET, 16, 8, 32, vision="small", language_layers=1)
    return recognition_losses(decoder, Decoded(branches["fusion"][-1], branches["vision"], branches=branches), targets)


@pytest.mark.parametrize("dtype", LIMITS, ids=["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_gives_the_loss_and_the_gradients_of_the_authors_code(record, name, dtype):
    case, limit = record["consistency"]["cases"][name], LIMITS[dtype]
    loss, leaf = loss_of(record, case, dtype)
    loss.backward()

    assert loss.item() == pytest.approx(case["loss"].item(), rel=limit)
    compared = 0
    for place, logits in leaf.items():
        gradient = torch.zeros_like(logits) if logits.grad is None else logits.grad
        if f"grad_{place}" in case:
            torch.testing.assert_close(gradient, case[f"grad_{place}"].to(dtype), rtol=0, atol=limit)
        elif f"grad_{place}_norm" in case:
            assert gradient.norm().item() == pytest.approx(case[f"grad_{place}_norm"], rel=limit)
            torch.testing.assert_close(gradient[0, :3], case[f"grad_{place}_row"].to(dtype), rtol=0, atol=limit)
        else:
            assert torch.count_nonzero(gradient) == 0, place
            continue
        compared += 1
    assert compared == len([key for key in case if key.startswith("grad_") and not key.endswith("_row")]) > 0


def test_every_recorded_case_is_compared(record):
    assert sorted(record["consistency"]["cases"]) == sorted(CASES)


def test_a_teachers_words_are_as_long_as_theirs(record):
    inputs = record["consistency"]["inputs"]
    for name, last in {"vision": "vision", "language": "language2", "fusion": "alignment2"}.items():
        steps = word_steps(inputs[f"teacher_{last}"].argmax(2), 0, SHORTEST[name])
        assert torch.equal(steps.sum(1), inputs[f"teacher_lengths_{last}"])
    rows = torch.tensor([[3, 0, 5, 0], [0, 4, 4, 4], [3, 4, 5, 6]])
    assert word_steps(rows, 0, 1).long().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert word_steps(rows, 0, 2).long().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]


def branches(seed: int) -> dict[str, Tensor]:
    """Two iterations of three words of four steps in five classes, 0 the end symbol; some steps are sure, some are not."""
    drawn = 3 * torch.randn(5, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"vision": drawn[0], "language": drawn[1:3], "fusion": drawn[3:]}


def plain(teacher: Tensor, student: Tensor, shortest: int, labels: str, distance: str, threshold: float | None) -> float:
    """L_consist of one iteration (words, steps, classes), one word, one step and one class at a time."""
    total, count = 0.0, 0
    for word, of_student in zip(teacher.softmax(2).tolist(), student.log_softmax(2).tolist(), strict=True):
        symbols = [p.index(max(p)) for p in word]
        length = max(symbols.index(0) + 1 if 0 in symbols else len(word), shortest)
        count += length
        for p, symbol, log_q in zip(word[:length], symbols, of_student, strict=False):
            target = [float(other == symbol) for other in range(len(p))] if labels == "hard" else p
            if threshold is None or max(p) > threshold:
                total -= sum(a * b for a, b in zip(target, log_q, strict=True))
                total += sum(a * math.log(a) for a in target if a > 0) if distance == "kl" else 0
    return total / count


@pytest.mark.parametrize("iterations", ["authors_code", "sum", "mean"])
@pytest.mark.parametrize("student", ["all", "vision", "language", "fusion"])
@pytest.mark.parametrize("teacher", ["itself", "vision", "language", "fusion"])
def test_every_pairing_equals_the_plain_form(teacher, student, iterations):
    weak, strong = branches(1), branches(2)
    adds = iterations == "sum" or (iterations == "authors_code" and (teacher == "itself" or student != "all"))
    for labels, distance, threshold in [("hard", "cross_entropy", None), ("soft", "cross_entropy", 0.8), ("soft", "kl", None), ("hard", "kl", 0.8)]:
        found = consistency_losses(weak, strong, 0, Teaching(teacher, student, labels, distance, threshold, iterations=iterations)).by_student
        for name in MODALITIES:
            taught_by = name if teacher == "itself" else teacher
            of_teacher = weak[taught_by].view(-1, 3, 4, 5)[-1]
            losses = [plain(of_teacher, each, SHORTEST[taught_by], labels, distance, threshold) for each in strong[name].view(-1, 3, 4, 5)]
            expected = 0 if student not in ("all", name) else sum(losses) if adds else sum(losses) / len(losses)
            assert found[name].item() == pytest.approx(expected, rel=1e-12), name


def test_what_is_not_sure_stays_in_the_mean_and_what_equals_the_threshold_is_not_sure():
    teacher = torch.zeros(1, 3, 2, dtype=torch.float64)  # both classes at 1/2, then at 3/4, and the end at 3/4
    teacher[0, 1, 1] = teacher[0, 2, 0] = math.log(3)
    teacher[0, 0, 1] = 1e-9
    logits = {"vision": teacher, "language": teacher[None], "fusion": teacher[None]}
    surer_than = {threshold: consistency_losses(logits, logits, 0, Teaching("vision", "vision", confidence_threshold=threshold))
                  for threshold in (None, 0.7, 0.9)}
    assert surer_than[None].by_student["vision"].item() == pytest.approx((math.log(2) - 2 * math.log(3 / 4)) / 3, abs=1e-9)
    assert surer_than[0.7].by_student["vision"].item() == pytest.approx(-2 * math.log(3 / 4) / 3, rel=1e-12)
    assert [surer_than[threshold].kept_fraction.item() for threshold in (None, 0.7, 0.9)] == pytest.approx([1, 2 / 3, 0])
    assert surer_than[0.9].by_student["vision"] == 0 and surer_than[None].teacher_length == 3
    half = {"vision": torch.zeros(1, 1, 2), "language": torch.zeros(1, 1, 1, 2), "fusion": torch.zeros(1, 1, 1, 2)}
    assert consistency_losses(half, half, 0, Teaching(confidence_threshold=0.5)).kept_fraction == 0


def test_the_average_moves_as_in_the_authors_code(record):
    ema = record["ema"]

    class Weights(nn.Module):
        def __init__(self, values: Tensor, mean: Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(values.double())
            self.register_buffer("running_mean", mean)

    average = Weights(ema["teacher_before"], torch.zeros(3))
    for step in ema["steps"]:
        follow(average, Weights(step["student"], torch.ones(3)), ema["decay"], buffers=False)
        torch.testing.assert_close(average.weight.detach(), step["teacher"].double(), rtol=0, atol=1e-6)
    assert torch.equal(average.running_mean, ema["teacher_running_mean_after"])
