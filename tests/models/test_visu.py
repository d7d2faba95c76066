"""ViSu: the alignment loss and the whole loss against plain re-implementations, what no gradient reaches, and that it is CCR at weight 0."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from ccr_models import BOTH, ccr, images, plain_string, recognizer
from models.batch import Batch, Part
from models.charset import AttentionTokens, Charset
from models.decoders.decoded import Decoded
from models.footprint import Held
from models.objectives import ViSu
from models.objectives.visu import alignment_loss, along, runs_of
from models.recognizers import build
from pipelines.synthesis.base_images import BaseImages

# Some of the images below pass, some do not. A projection that is new and not the identity would read nothing, and CTC would align nothing.
SOME = {"confidence_threshold": 0.1, "alignment_threshold": 0.2, "projection": "residual"}
NOTHING_BUT_CCR = {"alignment_weight": 0.0, "base_recognition_weight": 0.0, "base_consistency_weight": 0.0}


def visu(name: str, **constants) -> ViSu:
    """On the wild recognizer of the tests of CCR, in eval mode: no dropout, and batch statistics stay."""
    torch.manual_seed(3)
    wild = recognizer(name)
    wild.decoder.max_length = {"crnn_tiny": 25, "trba_tiny": 8}[name]  # of the frames many write something
    made = ViSu(wild, **{**SOME, **constants}).double().eval()
    with torch.no_grad():
        for parameter in made.head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # the target's head is another one
    return made


def batch_of(model: ViSu) -> Batch:
    """Labels that the online model reads on their images, so that CTC has as many runs as characters; base images that are a little different."""
    labeled = images(16, seed=1)
    with torch.no_grad():
        texts = model.recognizer.read(labeled).texts
    chosen = [number for number, text in enumerate(texts) if 1 <= len(text) <= model.recognizer.decoder.max_length][:8]
    labeled, words = labeled[chosen], [texts[number] for number in chosen]
    base, weak = labeled + 0.02 * images(len(words), seed=4), images(6, seed=2)
    return Batch(labeled=Part(torch.empty(0), words, words, model.recognizer.decoder.encode(words, "cpu"), views=(labeled, base)),
                 unlabeled=Part(torch.empty(0), list("abcdef"), views=(weak, weak + 0.02 * images(6, seed=3))))


# --- the alignment loss, one pair at a time ----------------------------------------------------------------------------


def plain_alignment(features: list, classes: list[int], reference: list, reference_classes: list[int], temperature: float) -> float:
    """L_cua from the formula; every vector counts."""
    losses = []
    for u, own in zip(features, classes, strict=True):
        similarities = [torch.nn.functional.cosine_similarity(u, v, dim=0).item() / temperature for v in reference]
        positives = [s for s, other in zip(similarities, reference_classes, strict=True) if other == own]
        negatives = [s for s, other in zip(similarities, reference_classes, strict=True) if other != own]
        if positives:
            terms = []
            for place, s in enumerate(positives):
                rest = positives[:place] + positives[place + 1:]
                below = math.exp(s) + sum(math.exp(n) for n in negatives) + sum(math.exp(-q) for q in rest)
                terms.append(math.log(math.exp(s) / below))
            losses.append(-sum(terms) / len(terms))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_alignment_loss_against_a_plain_one(temperature):
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(rows, 7, generator=generator, dtype=torch.float64) for rows in (9, 12))
    classes, reference_classes = torch.tensor([1, 1, 2, 3, 3, 5, -1, 2, 1]), torch.tensor([1, 2, 2, 3, -1, 1, 1, 4, -1, 3, 3, 2])
    found = alignment_loss(u, classes, v, reference_classes, temperature).item()
    own, others = (classes >= 0).nonzero().flatten(), (reference_classes >= 0).nonzero().flatten()
    expected = plain_alignment(list(u[own]), classes[own].tolist(), list(v[others]), reference_classes[others].tolist(), temperature)
    assert found == pytest.approx(expected, rel=1e-11)  # float64, and sums of 12 terms that differ by exp(40) at most


def test_the_alignment_is_the_same_some_rows_at_a_time(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(rows, 7, generator=generator, dtype=torch.float64) for rows in (40, 30))
    classes, reference_classes = (torch.randint(-1, 4, (rows,), generator=generator) for rows in (40, 30))
    found = []
    for pairs in (1, 100, 2**24):  # 40, 14 and 1 parts
        monkeypatch.setattr("models.objectives.visu.PAIRS", pairs)
        features = u.clone().requires_grad_(True)
        loss = alignment_loss(features, classes, v, reference_classes, 0.1)
        loss.backward()
        found.append((loss.detach(), features.grad))
    for part in found[:2]:
        torch.testing.assert_close(part, found[2], rtol=1e-12, atol=1e-15)


def test_the_alignment_of_a_large_batch_holds_less_than_one_matrix_of_all_its_pairs():
    with FakeTensorMode(), Held([]) as held:
        rows = 2**14  # 630 words of 26 steps
        u, v = torch.empty(rows, 8, requires_grad=True), torch.empty(rows, 8)
        classes = torch.empty(rows, dtype=torch.int64)
        alignment_loss(u, classes, v, classes, 0.1).backward()
    assert held.most < 4 * rows**2


def test_the_alignment_loss_of_few_characters():
    east, north = torch.eye(2, dtype=torch.float64)
    one = torch.tensor([1])
    assert alignment_loss(east[None], one, north[None], one, 0.1) == 0  # nothing to tell it from
    assert alignment_loss(east[None], one, north[None], torch.tensor([2]), 0.1) == 0  # nothing to bring it to
    with_negative = alignment_loss(3 * east[None], one, torch.stack([east, north]), torch.tensor([1, 2]), 0.5)
    assert with_negative.item() == pytest.approx(math.log1p(math.exp(-2)), rel=1e-12)
    two_positives = alignment_loss(east[None], one, torch.stack([east, north]), torch.tensor([1, 1]), 0.5)
    assert two_positives.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-2))) / 2, rel=1e-12)


def test_every_positive_is_drawn_near_and_every_negative_pushed_away():
    v, u = torch.eye(4, dtype=torch.float64), torch.full((1, 4), 0.5, dtype=torch.float64, requires_grad=True)
    alignment_loss(u, torch.tensor([1]), v, torch.tensor([1, 1, 2, 2]), 0.1).backward()
    assert (u.grad[0, :2] < 0).all() and (u.grad[0, 2:] > 0).all()


def test_it_is_finite_in_float32_where_its_powers_would_not_be():
    u = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], requires_grad=True)
    loss = alignment_loss(u, torch.tensor([1, 2, 1]), u.detach(), torch.tensor([1, 1, 2]), 0.01)  # exp(100)
    loss.backward()
    assert loss.isfinite() and u.grad.isfinite().all()


# --- the whole loss -----------------------------------------------------------------------------------------------------


def characters_of(model: ViSu, decoded: Decoded, words: list[list[int]], head) -> tuple[list[Tensor], list[int]]:
    """The aligned vectors of words, given as their classes, and the class of each."""
    vectors, classes = [], []
    for logits, glimpses, word in zip(decoded.logits, decoded.glimpses, words, strict=True):
        parts = list(glimpses[:len(word)])
        if model.recognizer.decoder.kind == "ctc":
            best, runs = logits.argmax(1).tolist(), []
            for frame, symbol in enumerate(best):
                if symbol != 0 and (frame == 0 or best[frame - 1] != symbol):
                    runs.append([])
                if symbol != 0:
                    runs[-1].append(glimpses[frame])
            parts = [torch.stack(run).mean(0) for run in runs] if len(runs) == len(word) else []
        vectors += [head(part) for part in parts]
        classes += word[:len(parts)]
    return vectors, classes


def plain_words(model: ViSu, batch: Batch) -> tuple[list[list[int]], list[list[int]]]:
    """The classes of the labels, and of what the target reads on the weak views where it is sure enough to be aligned, else none."""
    tokens, ctc = model.recognizer.decoder.tokens, model.recognizer.decoder.kind == "ctc"
    labels = [tokens.ids(word, 25) + ([] if ctc else [tokens.end]) for word in batch.labeled.texts]
    written = []
    for logits in model.ccr.target(batch.unlabeled.views[0]).logits:
        largest, best = logits.softmax(1).max(1)
        word = plain_string(best.tolist()) if ctc else best.tolist()
        if ctc:
            score = model.ccr.target.decoder.read(Decoded(logits[None], logits[None])).confidences.item() if word else 0.0
        else:
            length = next((place for place, symbol in enumerate(word) if not tokens.is_character(symbol)), len(word) - 1)
            word, score = [*word[:length], tokens.end], largest[:length + 1].prod().item()
        written.append(word if score >= model.alignment_threshold else [])
    return labels, written


@BOTH
def test_the_alignment_of_both_parts_against_a_plain_one(name):
    model = visu(name)
    batch, decoder = batch_of(model), model.recognizer.decoder
    with torch.no_grad():
        named = model(batch).named
        labels, written = plain_words(model, batch)
        fed = decoder.inputs(batch.labeled.targets)
        online, target = model.recognizer(batch.labeled.views[0], fed), model.ccr.target(batch.labeled.views[1], fed)
        expected = plain_alignment(*characters_of(model, online, labels, model.head),
                                   *characters_of(model, target, labels, model.target_head), 0.1)
        assert named["alignment_loss"].item() == pytest.approx(expected, rel=1e-9) and expected > 0

        target = model.ccr.target(batch.unlabeled.views[0])
        fed = None if decoder.kind == "ctc" else torch.tensor([([0, *word] + [0] * 9)[:target.logits.shape[1]] for word in written])
        online = decoder(model.recognizer.encode(batch.unlabeled.views[1]), fed, model.ccr.projection)
        expected = plain_alignment(*characters_of(model, online, written, model.head),
                                   *characters_of(model, target, written, model.target_head), 0.1)
        assert named["unlabeled_alignment_loss"].item() == pytest.approx(expected, rel=1e-9) and expected > 0
        assert 0 < named["aligned_fraction"] < 1


def test_the_consistency_of_labels_against_a_plain_one():
    model = visu("trba_tiny")
    batch, decoder = batch_of(model), model.recognizer.decoder
    with torch.no_grad():
        named = model(batch).named
        fed = decoder.inputs(batch.labeled.targets)
        target = model.ccr.target(batch.labeled.views[1], fed).logits
        online = decoder(model.recognizer.encode(batch.labeled.views[0]), fed, model.ccr.projection).logits
    distances, kept = [], 0
    for word, z, x in zip(batch.labeled.texts, target, online, strict=True):
        steps = len(word) + 1
        if z[:steps].softmax(1).amax(1).prod() >= 0.1:
            kept += 1
            p, q = (z[:steps] / 0.4).softmax(1), x[:steps].softmax(1)
            distances += (p * (p / q).log()).nan_to_num().sum(1).tolist()
    fraction = kept / len(batch.labeled.texts)
    assert named["base_kept_fraction"].item() == pytest.approx(fraction) and 0 < fraction
    assert named["base_consistency_loss"].item() == pytest.approx(fraction * sum(distances) / len(distances), rel=1e-9)


@BOTH
def test_the_total_is_the_weighted_sum_of_its_parts(name):
    weights = {"consistency_weight": 2.0, "base_recognition_weight": 3.0, "base_consistency_weight": 5.0}
    model = visu(name, alignment_weight=7.0, **weights)
    losses = model(batch_of(model))
    part = losses.named
    expected = (part["recognition_loss"] + 2 * part["consistency_loss"] + 3 * part["base_recognition_loss"] + 5 * part["base_consistency_loss"]
                + 7 * (part["alignment_loss"] + part["unlabeled_alignment_loss"]))
    torch.testing.assert_close(losses.total.detach(), expected, rtol=1e-12, atol=0)
    assert not any(value.requires_grad for value in part.values())


@BOTH
def test_without_weights_it_is_ccr(name):
    model, plain = visu(name, **NOTHING_BUT_CCR), ccr(name, confidence_threshold=0.1, projection="residual", domain_adaptation=False)
    plain.load_state_dict(model.ccr.state_dict())
    batch = batch_of(model)
    losses = model(batch)
    batch.labeled.views = batch.labeled.views[:1]
    expected = plain(batch)
    assert losses.total == expected.total
    assert all(losses.named[key] == value for key, value in expected.named.items() if not key.startswith("consistency_position")) and 0 < losses.named["kept_fraction"] < 1


# --- what learns, and what does not -------------------------------------------------------------------------------------


@BOTH
def test_the_alignment_is_unidirectional(name):
    model = visu(name, consistency_weight=0.0, base_recognition_weight=0.0, base_consistency_weight=0.0)
    batch = batch_of(model)
    labeled, base = (view.requires_grad_() for view in batch.labeled.views)
    weak, strong = (view.detach().requires_grad_() for view in batch.unlabeled.views)
    batch.unlabeled.views = (weak, strong)
    model(batch).total.backward()
    assert labeled.grad.any() and not base.grad.any() and weak.grad is None
    assert strong.grad.any()
    assert all(parameter.grad is None for module in (model.ccr.target, model.target_head) for parameter in module.parameters())
    assert all(parameter.grad.any() for parameter in model.head.parameters())


def test_nothing_above_the_thresholds_is_a_zero_that_reaches_every_parameter():
    model = visu("crnn_tiny", alignment_threshold=1.0, confidence_threshold=1.0)
    batch = batch_of(model)
    batch.labeled.targets = model.recognizer.decoder.encode(["a"] * len(batch.labeled.texts), "cpu")  # as many runs has no image
    losses = model(batch)
    losses.total.backward()
    assert losses.named["alignment_loss"] == losses.named["unlabeled_alignment_loss"] == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_targets_head_is_a_moving_average_that_drops_nothing_out():
    model = visu("trba_tiny", ema_decay=0.9).train()
    before = [(target.clone(), online.clone()) for target, online in zip(model.target_head.parameters(), model.head.parameters(), strict=True)]
    model.after_step(1)
    for (target, online), after in zip(before, model.target_head.parameters(), strict=True):
        torch.testing.assert_close(after, 0.9 * target + 0.1 * online, rtol=1e-12, atol=1e-14)
    assert model.head.training and model.recognizer.training
    assert not any(module.training for part in (model.target_head, model.ccr.target) for module in part.modules())


class _NoWaiting(TorchDispatchMode):
    """Fails where a value or a data-dependent shape would have to come back from the device."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        assert not any(name in str(function) for name in ("_local_scalar_dense", "nonzero")), function
        return function(*arguments, **(keywords or {}))


def test_a_step_never_waits_for_the_device():
    model = visu("trba_tiny")
    batch = batch_of(model)
    model.train()
    with _NoWaiting():
        losses = model(batch)
        losses.total.backward()
        model.after_step(1)
    assert losses.named["alignment_loss"] > 0


def _one_of_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = visu("trba_tiny")
    batch, mine, own = batch_of(model), slice(2 * rank, 2 * rank + 2), slice(3 * rank, 3 * rank + 3)
    labeled, unlabeled = batch.labeled, batch.unlabeled
    half = Batch(Part(torch.empty(0), labeled.keys[mine], labeled.texts[mine], labeled.targets[mine], tuple(view[mine] for view in labeled.views)),
                 Part(torch.empty(0), unlabeled.keys[own], views=tuple(view[own] for view in unlabeled.views)))
    losses = DistributedDataParallel(model)(half)
    losses.total.backward()
    torch.save(losses.named["alignment_loss"], f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_align_their_characters_with_the_references_of_both(tmp_path):
    model = visu("trba_tiny")
    batch = batch_of(model)
    labeled = batch.labeled
    batch.labeled = Part(torch.empty(0), labeled.keys[:4], labeled.texts[:4], labeled.targets[:4], tuple(view[:4] for view in labeled.views))
    torch.multiprocessing.spawn(_one_of_two_ranks, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    counts = [sum(len(word) + 1 for word in labeled.texts[part]) for part in (slice(2), slice(2, 4))]  # with the end symbols
    expected = (counts[0] * first + counts[1] * second) / sum(counts)
    torch.testing.assert_close(model(batch).named["alignment_loss"], expected, rtol=1e-9, atol=0)
    assert first != second


def test_a_few_steps_teach_drawn_words_and_bring_their_characters_together():
    torch.manual_seed(0)
    words = ["ray", "book", "7up", "hello"]
    model = ViSu(build("trba_tiny", Charset.named("36"), max_length=6), ema_decay=0.8, confidence_threshold=0.1, alignment_weight=1.0).train()
    decoder = model.recognizer.decoder
    targets = decoder.encode(words)
    base = BaseImages(decoder.tokens, 32, torch.device("cpu")).draw(targets, torch.zeros_like(targets), 100) / 127.5 - 1
    picture = -0.5 * base + 0.1 * torch.randn(base.shape)  # bright letters on noise
    batch = Batch(Part(torch.empty(0), words, words, targets, (picture, base)), Part(torch.empty(0), words, views=(picture, picture.roll(2, 3))))
    optimizer, history = torch.optim.AdamW(filter(lambda parameter: parameter.requires_grad, model.parameters()), lr=3e-3), []
    for step in range(1, 61):
        losses = model(batch)
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
        model.after_step(step)
        history.append(losses.named)
    first, last = history[0], history[-1]
    for name, left in {"recognition_loss": 0.2, "base_recognition_loss": 0.2, "alignment_loss": 0.7}.items():
        assert last[name] < left * first[name], name
    assert last["kept_fraction"] > 0 and last["mean_score"] > first["mean_score"]


# --- its parts ----------------------------------------------------------------------------------------------------------


def test_the_runs_of_frames():
    classes = torch.tensor([[0, 2, 2, 0, 2, 3, 3, 3], [0, 0, 0, 0, 0, 0, 0, 0], [1, 2, 3, 1, 2, 3, 1, 0]])
    logits = torch.nn.functional.one_hot(classes, 4).double()
    glimpses = torch.arange(24.0, dtype=torch.float64).view(3, 8, 1)
    runs = runs_of(Decoded(logits, glimpses), slots=4, blank=0)
    assert runs.symbols.tolist() == [[2, 2, 3, 0], [0, 0, 0, 0], [1, 2, 3, 1]]
    assert runs.count.tolist() == [3, 0, 7]  # those behind the last slot are counted
    assert runs.glimpses.squeeze(2).tolist() == [[1.5, 4, 6, 0], [0, 0, 0, 0], [16, 17, 18, 19]]


def test_what_is_said_along_a_label():
    tokens = AttentionTokens(Charset("ab"))
    labels = torch.tensor([tokens.ids("ab", 2) + [tokens.end, tokens.pad], [tokens.end, tokens.pad, tokens.pad, tokens.pad]])
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log().expand(2, 4, 4)
    reading = along(labels, logits, tokens)
    assert reading.steps.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert reading.characters.tolist() == [[True, True, False, False], [False] * 4]
    torch.testing.assert_close(reading.scores, torch.tensor([0.125, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("constants, sentence", [
    ({"alignment_weight": -1.0}, "visu expects alignment_weight of 0 or more, found -1.0"),
    ({"base_recognition_weight": float("nan")}, "visu expects base_recognition_weight of 0 or more, found nan"),
    ({"alignment_threshold": 1.5}, "visu expects alignment_threshold from 0 to 1, found 1.5: it is compared with probabilities"),
    ({"alignment_temperature": 0.0}, "visu expects alignment_temperature above 0, found 0.0: the paper's is 0.1"),
    ({"ema_decay": 2.0}, "ccr expects ema_decay from 0 to 1, found 2.0"),
])
def test_constants_out_of_range_are_refused(constants, sentence):
    with pytest.raises(ValueError, match=sentence):
        visu("crnn_tiny", **constants)


def test_the_papers_constants_are_the_defaults():
    model = ViSu(recognizer("trba_tiny"))
    assert (model.alignment_weight, model.alignment_threshold, model.alignment_temperature) == (0.1, 0.7, 0.1)
    assert (model.ccr.decay, model.ccr.confidence_threshold, model.ccr.sharpening_temperature) == (0.999, 0.5, 0.4)
    assert model.views == {"labeled": ("strong", "base_strong"), "unlabeled": ("weak", "strong")}
    assert not model.ccr.domain_adaptation
