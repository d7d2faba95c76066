"""SemiMTR as an objective: what its losses are made of, who learns, and the facts that any honest implementation shows."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from models.batch import Batch, Part
from models.families.abinet import CHARSET
from models.objectives import OBJECTIVES, SemiMTR
from models.recognizer import Recognizer
from models.recognizers import build

WORDS = ["ray", "book", "7up"]


def recognizer(**options) -> Recognizer:
    """A small float64 ABINet whose readings differ in length and confidence, in eval mode."""
    torch.manual_seed(3)
    sizes = {"vision": "small", "hidden": 32, "width": 64, "max_length": 6, "vision_layers": 1, "language_layers": 1, "iterations": 2}
    made = build("abinet", CHARSET, **(sizes | options)).double()
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # this one batch sets the statistics
    with torch.no_grad():
        made.train().encode(images(16, seed=9))
    for norm in norms:
        norm.momentum = 0.1
        norm.num_batches_tracked.zero_()
    for classifier, end in ((made.decoder.vision.classifier, 5.0), (made.decoder.language.classifier, 0.0), (made.decoder.classifier, 2.5)):
        nn.init.normal_(classifier.weight)
        nn.init.constant_(classifier.bias[:1], end)  # some words end early
    return made.eval()


def semimtr(**constants) -> SemiMTR:
    return SemiMTR(recognizer(), **constants).double().eval()


def images(n: int, seed: int) -> Tensor:
    """(n, 3, 32, 64) float64 of smooth noise in [-1, 1]."""
    coarse = torch.rand(n, 3, 8, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.interpolate(coarse, (32, 64), mode="bilinear") * 2 - 1


def labeled(model: SemiMTR, words: list[str], weak: Tensor, strong: Tensor) -> Part:
    return Part(torch.empty(0), words, words, model.recognizer.decoder.encode(words), views=(weak, strong))


def unlabeled(weak: Tensor, strong: Tensor) -> Part:
    return Part(torch.empty(0), [str(number) for number in range(len(weak))], views=(weak, strong))


def batch_of(model: SemiMTR) -> Batch:
    return Batch(labeled(model, WORDS, images(3, seed=1), images(3, seed=2)), unlabeled(images(4, seed=3), images(4, seed=4)))


# --- what the loss is made of -----------------------------------------------------------------------------------------


def test_consistency_is_over_all_words_and_recognition_over_the_labeled_ones():
    model = semimtr(vision_consistency_weight=1.5, language_consistency_weight=0.5, vision_recognition_weight=2.0, fusion_recognition_weight=0.25)
    batch = batch_of(model)
    losses = model(batch)

    weak, strong = (torch.cat([batch.labeled.views[view], batch.unlabeled.views[view]]) for view in range(2))
    with torch.no_grad():
        teacher, student = model.recognizer(weak).branches, model.recognizer(strong).branches
        recognition = [model.recognizer.decoder.losses(model.recognizer(view), batch.labeled.targets) for view in batch.labeled.views]
    consistency = 0.0
    for name, weight, shortest in [("vision", 1.5, 2), ("language", 0.5, 1), ("fusion", 1.0, 1)]:
        symbols = teacher[name].view(-1, 7, 7, 37)[-1].argmax(2).tolist()
        lengths = [max(row.index(0) + 1 if 0 in row else 7, shortest) for row in symbols]
        for logits in student[name].view(-1, 7, 7, 37).log_softmax(-1):
            terms = [-logits[word, step, symbols[word][step]].item() for word in range(7) for step in range(lengths[word])]
            consistency += weight * sum(terms) / len(terms)
        assert len(set(lengths)) > 1 or name == "language"  # a mean over symbols is no mean over words
    recognised = sum(2 * each["vision"] + each["language"] + 0.25 * each["fusion"] for each in recognition).item()

    assert losses.named["consistency_loss"].item() == pytest.approx(consistency, rel=1e-9)
    assert losses.named["recognition_loss"].item() == pytest.approx(recognised, rel=1e-9)
    assert losses.total.item() == pytest.approx(consistency + recognised, rel=1e-9)
    assert losses.named["kept_fraction"] == 1 and 1 <= losses.named["teacher_length"] <= 7
    assert not any(value.requires_grad for value in losses.named.values())


def test_identical_views_without_dropout_differ_by_nothing_in_kl_and_by_the_entropy_in_cross_entropy():
    same = images(4, seed=1)
    for teacher in ("vision", "language", "fusion"):
        one = {"teacher": teacher, "student": teacher, "labels": "soft", "iterations": "mean"}
        found = {}
        for distance in ("kl", "cross_entropy"):
            torch.manual_seed(0)
            model = SemiMTR(recognizer(iterations=1), distance=distance, **one)
            losses = model(Batch(unlabeled=unlabeled(same, same)))
            found[distance] = losses.total.item()
            losses.total.backward()
            assert max(parameter.grad.abs().max() for parameter in model.parameters()) < 1e-10  # a divergence is smallest at 0, where q is p
        logits = model.recognizer(same).branches[teacher].detach().view(4, 7, 37)
        p = logits.softmax(2)
        ends = [row.index(0) + 1 if 0 in row else 7 for row in logits.argmax(2).tolist()]
        entropies = [-(p[word, step] * p[word, step].log()).sum().item() for word, end in enumerate(ends)
                     for step in range(max(end, 2 if teacher == "vision" else 1))]
        assert found["kl"] == pytest.approx(0, abs=1e-12)
        assert found["cross_entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-9)


def test_a_threshold_of_one_leaves_the_cross_entropies():
    model = semimtr(confidence_threshold=1.0)
    losses = model(batch_of(model))
    assert losses.total.item() == losses.named["recognition_loss"].item() and losses.named["kept_fraction"] == 0
    everything = semimtr()(batch_of(model)).named
    assert losses.named["recognition_loss"] == everything["recognition_loss"] and everything["consistency_loss"] > 0


# --- who learns -------------------------------------------------------------------------------------------------------


def gradients(model: SemiMTR, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    model(batch).total.backward()
    return {name: parameter.grad for name, parameter in model.recognizer.named_parameters()}


def test_the_teacher_gets_no_gradient():
    """With the weak view's cross-entropy off, the gradient is that of the strong view's pass alone."""
    off = {f"{name}_recognition_weight": 0.0 for name in ("vision", "language", "fusion")}
    model = semimtr(**off)
    batch = Batch(unlabeled=unlabeled(images(4, seed=3).requires_grad_(True), images(4, seed=4).requires_grad_(True)))
    itself = gradients(model, batch)
    weak, strong = batch.unlabeled.views
    assert weak.grad is None or torch.count_nonzero(weak.grad) == 0
    assert torch.count_nonzero(strong.grad) > 0

    frozen = SemiMTR(recognizer(), ema=True, **off).eval()  # the same weights, of which no gradient can reach the teacher
    for name, gradient in gradients(frozen, batch).items():
        torch.testing.assert_close(gradient, itself[name], rtol=1e-9, atol=1e-13)
    assert all(parameter.grad is None for parameter in frozen.average.parameters())

    weak.grad = None
    gradients(semimtr(labels="soft", stop_gradient=False, **off), batch)
    assert torch.count_nonzero(weak.grad) > 0


@pytest.mark.parametrize("constants", [{}, {"ema": True}, {"confidence_threshold": 1.0}, {"labels": "soft", "distance": "kl"},
                                       {"teacher": "fusion", "student": "vision"}, {"student": "language", "language_consistency_weight": 0.0}])
@pytest.mark.parametrize("parts", ["both", "labeled", "no labeled part", "an empty labeled part"])
def test_every_trained_parameter_gets_a_finite_gradient_whatever_the_batch_holds(constants, parts):
    model = semimtr(**constants).train()
    batch = batch_of(model)
    if parts == "labeled":
        batch.unlabeled = None
    elif parts != "both":
        nothing = images(0, seed=0)
        batch.labeled = None if parts == "no labeled part" else labeled(model, [], nothing, nothing)
    losses = model(batch)
    losses.total.backward()
    assert all(torch.isfinite(value) for value in losses.named.values())
    assert (losses.named["recognition_loss"] > 0) == (parts in ("both", "labeled"))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith("average."), name
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name


def test_the_average_is_the_closed_form_and_keeps_statistics_of_its_own():
    model = semimtr(ema=True, ema_decay=0.9).train()
    batch = batch_of(model)
    optimizer = torch.optim.SGD(model.recognizer.parameters(), lr=1e-2)
    weights = [copy.deepcopy(list(model.recognizer.parameters()))]
    assert all(torch.equal(own, other) for own, other in zip(model.average.parameters(), weights[0], strict=True))
    for step in range(1, 4):
        optimizer.zero_grad()
        model(batch).total.backward()
        optimizer.step()
        model.after_step(step)
        weights.append(copy.deepcopy(list(model.recognizer.parameters())))
    for own, *history in zip(model.average.parameters(), *weights, strict=True):
        expected = 0.9**3 * history[0] + sum(0.1 * 0.9 ** (3 - step) * history[step] for step in range(1, 4))
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-14)

    assert all(module.training for module in model.average.modules())
    moved = dict(model.average.named_buffers())
    for name, buffer in model.recognizer.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert buffer == moved[name] == 3  # the teacher's pass counts in the teacher's own
        elif name.endswith("running_mean"):
            assert not torch.equal(buffer, moved[name])


def test_the_signals_are_of_what_fusion_reads_in_the_unlabeled_words():
    model = semimtr()
    batch = batch_of(model)
    weak, strong = batch.unlabeled.views
    texts, others = (model.recognizer.read(view).texts for view in (weak, strong))
    named = model(batch).named
    assert named["agreement"].item() == pytest.approx(sum(map(str.__eq__, texts, others)) / len(texts))
    lengths = torch.tensor([len(text) for text in texts]).bincount() / len(texts)
    assert named["length_entropy"].item() == pytest.approx(-torch.xlogy(lengths, lengths).sum().item(), abs=1e-6)
    batch.unlabeled.views = (weak, weak)
    assert model(batch).named["agreement"] == 1


def test_without_an_average_there_is_one_model_and_each_view_is_a_pass_for_itself():
    model = semimtr().train()
    model(batch_of(model))
    counted = [buffer.item() for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert counted and set(counted) == {2} and not any(name.startswith("average") for name in model.state_dict())


def test_a_continued_run_has_the_same_average():
    model = semimtr(ema=True, ema_decay=0.5)
    with torch.no_grad():
        model.recognizer.decoder.classifier.bias += 1
    model.after_step(1)
    continued = semimtr(ema=True, ema_decay=0.5)
    continued.load_state_dict(model.state_dict())
    assert model(batch_of(model)).total == continued(batch_of(model)).total


# --- where it runs ----------------------------------------------------------------------------------------------------


class _NoWaiting(TorchDispatchMode):
    """Fails where a value or a data-dependent shape would have to come back from the device."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        assert not any(name in str(function) for name in ("_local_scalar_dense", "nonzero")), function
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("constants", [{}, {"ema": True, "confidence_threshold": 0.9}, {"labels": "soft", "distance": "kl"}])
def test_a_step_never_waits_for_the_device(constants):
    model = semimtr(**constants).train()
    batch = batch_of(model)
    with _NoWaiting():
        losses = model(batch)
        losses.total.backward()
        model.after_step(1)
    assert losses.total > 0


def test_probabilities_are_float32_under_mixed_precision():
    model = semimtr(labels="soft").float()
    batch = batch_of(model)
    batch.labeled.views, batch.unlabeled.views = (tuple(view.float() for view in part.views) for part in (batch.labeled, batch.unlabeled))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
    losses.total.backward()
    assert losses.total.dtype == torch.float32 and torch.isfinite(losses.total)


def _one_of_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = semimtr(confidence_threshold=0.5)
    words = labeled(model, WORDS, images(3, seed=1), images(3, seed=2)) if rank == 0 else None
    mine = slice(0, 1) if rank == 0 else slice(1, 4)
    parallel = DistributedDataParallel(model)
    losses = parallel(Batch(words, unlabeled(images(4, seed=3)[mine], images(4, seed=4)[mine])))
    losses.total.backward()
    torch.save({"loss": losses.total.detach(), "gradients": {name: p.grad for name, p in model.named_parameters()}}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_of_which_one_has_no_labels_are_one_rank_with_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(_one_of_two_ranks, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]

    model = semimtr(confidence_threshold=0.5)
    losses = model(batch_of(model))
    losses.total.backward()

    assert 0 < losses.named["kept_fraction"] < 1
    assert ranks[0]["loss"] != ranks[1]["loss"]
    assert (ranks[0]["loss"] + ranks[1]["loss"]).item() / 2 == pytest.approx(losses.total.item(), rel=1e-9)
    for name, parameter in model.named_parameters():
        for rank in ranks:
            torch.testing.assert_close(rank["gradients"][name], parameter.grad, atol=1e-12, rtol=1e-6)


# --- learning ---------------------------------------------------------------------------------------------------------


def drawn(texts: list[str]) -> Tensor:
    """(n, 3, 32, 64) in [-1, 1]: black words on white."""
    font, pictures = ImageFont.load_default(18), []
    for text in texts:
        picture = Image.new("L", (64, 32), 255)
        ImageDraw.Draw(picture).text((32, 16), text, fill=0, font=font, anchor="mm")
        pictures.append(torch.tensor(list(picture.getdata()), dtype=torch.float32).view(1, 32, 64).expand(3, -1, -1))
    return torch.stack(pictures) / 127.5 - 1


def test_learns_labeled_words_and_to_read_both_views_of_all_words_alike():
    words, more = ["ray", "book", "7up", "42"], ["bay", "look"]
    torch.manual_seed(0)
    model = SemiMTR(build("abinet", CHARSET, hidden=64, vision="small", vision_layers=1, language_layers=1, iterations=2, width=64, max_length=6))
    for module in model.modules():
        module.training = not isinstance(module, nn.Dropout)
    pictures = drawn([*words, *more])
    moved = pictures.roll(4, dims=3)  # the strong view; batch statistics are those of the weak one
    batch = Batch(labeled(model, words, pictures[:4], moved[:4]), unlabeled(pictures[4:], moved[4:]))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 60)
    seen = []
    for _ in range(60):
        losses = model(batch)
        seen.append(losses.named["recognition_loss"].item())
        optimizer.zero_grad()
        losses.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 20.0)
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        weak, strong = (model.recognizer.read(view).texts for view in (pictures, moved))
    assert weak[:4] == words and strong == weak
    assert seen[-1] < seen[0] / 5


# --- what is refused --------------------------------------------------------------------------------------------------


def test_is_registered_and_its_views_are_the_recipes():
    assert OBJECTIVES["semimtr"] is SemiMTR
    assert semimtr().views == {"labeled": ("weak", "semimtr"), "unlabeled": ("weak", "semimtr")}
    assert semimtr(weak_view="none", strong_view="seqclr").views == {"labeled": ("none", "seqclr"), "unlabeled": ("none", "seqclr")}


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_other_recognizers_are_refused_with_the_one_to_use(name):
    with pytest.raises(ValueError, match="by vision, by language and by their fusion, found .*: use recognizer abinet"):
        SemiMTR(build(name, CHARSET))


@pytest.mark.parametrize("constants, message", [
    ({"ema_decay": 1.5}, "ema_decay from 0 to 1, found 1.5"), ({"confidence_threshold": 90.0}, "confidence_threshold from 0 to 1, found 90.0"),
    ({"fusion_consistency_weight": -1.0}, "fusion_consistency_weight of 0 or more, found -1.0"),
    ({"vision_recognition_weight": math.nan}, "vision_recognition_weight of 0 or more, found nan"),
    ({"ema": True, "stop_gradient": False}, "stop_gradient=true with ema=true"),
])
def test_refuses_constants_that_make_no_sense(constants, message):
    with pytest.raises(ValueError, match=message):
        semimtr(**constants)
