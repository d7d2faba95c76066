"""Mean Teacher: the authors' loss, gradients and averages, whose teacher has batch statistics of its own, and the ramp of the other form."""

import pytest
import torch

from ccr_models import BOTH, full_batch, objective
from models.objectives.mean_teacher import squared_distance


@pytest.fixture(scope="module")
def recorded(parity_data) -> dict:
    return torch.load(parity_data / "fewer_labels.pt", map_location="cpu", weights_only=True)["mean_teacher"]


@pytest.mark.parametrize("kind", ["Attn", "CTC"])
def test_reproduces_the_authors_loss_and_gradients(recorded, kind):
    case = recorded[kind]
    students = [case[f"student_{part}_logits"].double().requires_grad_(True) for part in ("labeled", "unlabeled")]
    loss = squared_distance(students, list(case["teacher_logits"].double().split(3)))
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"].item(), abs=1e-7)
    for student, part in zip(students, ("labeled", "unlabeled"), strict=True):
        torch.testing.assert_close(student.grad, case[f"grad_student_{part}"].double(), rtol=0, atol=1e-8)


def test_reproduces_the_authors_average(recorded):
    """Theirs moves at the beginning of an iteration, ours behind the step before: one teacher is asked in each."""
    case = recorded["CTC"]
    model = objective("mean_teacher", "crnn_tiny")
    teacher, student = next(model.teacher.parameters()).view(-1)[:3], next(model.recognizer.parameters()).view(-1)[:3]
    with torch.no_grad():
        teacher.copy_(case["teacher_start"])
        for moment in case["ema"]:
            student.copy_(moment["student"])
            model.after_step(moment["iteration"] - 1)
            torch.testing.assert_close(teacher, moment["teacher"].double(), rtol=0, atol=1e-6)


@BOTH
def test_the_average_is_the_closed_form(name):
    model = objective("mean_teacher", name, ema_decay=0.7).train()
    optimizer = torch.optim.SGD(model.recognizer.parameters(), lr=1e-3)
    expected = [parameter.detach().clone() for parameter in model.recognizer.parameters()]
    for step, decay in ((1, 2 / 3), (2, 0.7), (3, 0.7)):  # 1 - 1/3, then 3/4 and 4/5 are above ema_decay
        optimizer.zero_grad()
        model(full_batch(model, seed=step)).total.backward()
        optimizer.step()
        model.after_step(step)
        expected = [decay * old + (1 - decay) * now.detach() for old, now in zip(expected, model.recognizer.parameters(), strict=True)]
    for teacher, wanted in zip(model.teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(teacher, wanted, rtol=1e-12, atol=1e-14)
        assert teacher.grad is None


@BOTH
def test_the_teacher_trains_its_own_batch_statistics(name):
    model = objective("mean_teacher", name).train()
    before = [buffer.clone() for buffer in model.teacher.buffers()]
    batch = full_batch(model)
    for view in (*batch.labeled.views[1:], *batch.unlabeled.views[1:]):
        view.requires_grad_(True)
    model(batch).total.backward()
    after = list(model.teacher.buffers())
    model.after_step(1)
    assert model.teacher.training and any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(model.teacher.buffers(), model.recognizer.buffers(), strict=True))
    assert batch.unlabeled.views[1].grad is None and batch.labeled.views[1].grad is None


def test_identical_views_are_no_distance_at_the_beginning():
    """Of unlabeled words, and of CTC: a labeled word's student is fed the label, its teacher what it reads."""
    model = objective("mean_teacher", "crnn_tiny")
    batch = full_batch(model)
    for part in (batch.labeled, batch.unlabeled):
        part.views = (part.views[0],) * 2
    losses = model(batch)
    assert losses.named["consistency_loss"].item() == pytest.approx(0, abs=1e-25) and losses.named["agreement"] == 1


@BOTH
def test_the_weight_rises_over_the_ramp(name):
    model = objective("mean_teacher", name, consistency_weight=8.0, ramp_steps=4, ema_decay=1.0)
    batch, found = full_batch(model), []
    for step in (0, 1, 2, 4, 9):
        model.after_step(step)
        losses = model(batch)
        found.append(((losses.total - losses.named["recognition_loss"]) / losses.named["consistency_loss"]).item())
    assert found == pytest.approx([0, 2, 4, 8, 8])
    assert objective("mean_teacher", name)(batch).named["consistency_loss"] == losses.named["consistency_loss"]  # it is the student's copy


@pytest.mark.parametrize("constants, message", [({"ema_decay": 2.0}, "mean_teacher expects ema_decay from 0 to 1, found 2.0"),
                                                ({"ramp_steps": 0}, "mean_teacher expects ramp_steps of 1 or more, found 0")])
def test_refuses_what_makes_no_sense(constants, message):
    with pytest.raises(ValueError, match=message):
        objective("mean_teacher", "crnn_tiny", **constants)
