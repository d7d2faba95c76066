"""SemiMTR's vision pretraining: equal to the authors' code in its parts, put together as the paper says."""

import sys
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models.batch import Batch, Part
from models.charset import Charset
from models.families.abinet import CHARSET
from models.objectives import SemiMTRVision
from models.objectives.contrast import contrast
from models.objectives.heads import head
from models.objectives.instances import windows_of
from models.recognizers import build

ABINET = {"vision": "small", "hidden": 32, "width": 64, "max_length": 6, "vision_layers": 1, "language_layers": 1, "iterations": 0}
WORDS = ["ray", "book"]


@pytest.fixture(scope="module")
def record(parity_data):
    return torch.load(parity_data / "semimtr.pt", weights_only=True)


def images(n: int, seed: int) -> Tensor:
    """(n, 3, 32, 64) float64 of smooth noise in [-1, 1]."""
    coarse = torch.rand(n, 3, 8, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, (32, 64), mode="bilinear") * 2 - 1


def objective(name: str = "abinet", **constants) -> SemiMTRVision:
    torch.manual_seed(0)
    options = ABINET if name == "abinet" else {"width": 64}
    return SemiMTRVision(build(name, CHARSET if name == "abinet" else Charset.named("36"), **options), **constants).double().eval()


def batch_of(model: SemiMTRVision, labeled: int = 2, unlabeled: int = 3) -> Batch:
    """The first images are labeled; two views of each."""
    words = WORDS[:labeled]
    parts = {"labeled": Part(torch.empty(0), words, words, model.recognizer.decoder.encode(words), (images(2, 1)[:labeled], images(2, 2)[:labeled])),
             "unlabeled": Part(torch.empty(0), ["u"] * unlabeled, views=(images(3, 3)[:unlabeled], images(3, 4)[:unlabeled]))}
    return Batch(**{name: part for name, part in parts.items() if name in model.views})


# --- equal to the authors' code ------------------------------------------------------------------------------------

@pytest.mark.parametrize("case", ["window_float64", "window_float32", "all_float32", "frame_float32", "warm_float32", "large_float32"])
def test_the_contrast_is_theirs(record, case):
    kept = record["seqclr_loss"][case]
    views = [kept[f"view{number}"].clone().requires_grad_() for number in range(2)]
    loss, _ = contrast(torch.cat([view.flatten(0, 1) for view in views]), kept["temperature"])
    loss.backward()
    tolerance = 1e-9 if loss.dtype == torch.float64 else 5e-6
    torch.testing.assert_close(loss, kept["loss"], rtol=tolerance, atol=tolerance)
    for number, view in enumerate(views):
        torch.testing.assert_close(view.grad, kept[f"grad_view{number}"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("case", "name", "windows"), [("null_instances5", "none", 5), ("null_instances1", "none", 1), ("null_identity", "none", None),
                                                       ("bilstm_instances5", "bilstm", 5), ("linear_instances5", "linear", 5),
                                                       ("attn_linear_instances5", "gated", 5)])
def test_heads_and_windows_are_theirs(record, parity_data, case, name, windows):
    sys.path.insert(0, str(parity_data))
    from fixture import formula_param
    kept = record["projection"]
    frames = kept["backbone_feature"].permute(0, 2, 3, 1).flatten(1, 2)  # (2, 12, 16), row by row
    expected = kept["cases"][case]["output"]
    made = head(name, 16, 12 if name == "bilstm" else expected.shape[2])
    if name == "bilstm":
        made.rnn = torch.nn.LSTM(16, 8, bidirectional=True, batch_first=True)  # their hidden width is a field of its own
        made.linear = torch.nn.Linear(16, 12)
    theirs = {"gate": "w_att", "linear": "cls"} if name == "gated" else {}
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            first, _, rest = key.partition(".")
            parameter.copy_(formula_param(f"projection.{theirs.get(first, first)}" + (f".{rest}" if rest else ""), parameter.shape))
    found = made(frames)
    torch.testing.assert_close(found if windows is None else windows_of(found, windows), expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_loss_of_both_is_theirs(record, weight):
    """Words 0 and 2 are labeled; theirs stand in a batch with the others, ours come first."""
    kept = record["unified_pretraining"]
    case = kept["cases"][f"weight_{weight}"]
    logits = [kept[f"logits_view{number}"].clone().requires_grad_() for number in range(2)]
    instances = [kept[f"instances_view{number}"].clone().requires_grad_() for number in range(2)]
    decoder = build("abinet", CHARSET, **(ABINET | {"max_length": 25})).decoder
    labeled = kept["gt_lengths"] > 0
    targets = torch.nn.functional.pad(kept["gt_label_ids"][labeled], (1, 0))
    recognition = sum(decoder.branch_loss(view[labeled], targets) for view in logits)
    loss = recognition + weight * contrast(torch.cat([view.flatten(0, 1) for view in instances]), 0.1)[0]
    loss.backward()
    torch.testing.assert_close(loss, case["loss"], rtol=5e-6, atol=5e-6)
    for name, views in {"logits": logits, "instances": instances}.items():
        for number, view in enumerate(views):
            torch.testing.assert_close(view.grad, case[f"grad_{name}_view{number}"], rtol=5e-6, atol=5e-6)


# --- put together ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order", ["rows", "columns"])
def test_all_words_are_contrasted_and_the_labeled_ones_read(order):
    model = objective(order=order, contrastive_weight=0.5, recognition_weight=2.0)
    batch = batch_of(model)
    losses = model(batch)

    recognizer, views, recognition = model.recognizer, [], 0
    for number in range(2):
        memory = recognizer.encode(torch.cat([batch.labeled.views[number], batch.unlabeled.views[number]]))  # (5, 8 * 16, 32)
        cells = memory.view(5, 8, 16, 32)
        row = cells.flatten(1, 2) if order == "rows" else cells.transpose(1, 2).flatten(1, 2)
        bounds = [(128 * w // 5, -(-128 * (w + 1) // 5)) for w in range(5)]  # as adaptive pooling cuts
        views.append(torch.stack([row[:, start:stop].mean(1) for start, stop in bounds], 1))
        _, logits, _ = recognizer.decoder.vision(memory[:2])
        for word, name in zip(logits, WORDS, strict=True):
            ids = [CHARSET.characters.index(character) + 1 for character in name] + [0]
            recognition = recognition - sum(word[step].log_softmax(0)[symbol] for step, symbol in enumerate(ids)) / 9  # 9 symbols in all
    expected, _ = contrast(torch.cat([view.flatten(0, 1) for view in views]), 0.1)
    assert losses.named["contrastive_loss"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert losses.named["recognition_loss"].item() == pytest.approx(recognition.item(), rel=1e-9)
    assert losses.total.item() == pytest.approx(0.5 * expected.item() + 2 * recognition.item(), rel=1e-9)


def test_of_abinet_the_vision_model_alone_is_trained():
    model = objective()
    model(batch_of(model)).total.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {".".join(name.split(".")[:3]) for name in trained if ".decoder." in name} == {"recognizer.decoder.vision"}


def test_the_two_stages_ask_for_one_part_of_the_batch_each():
    first, second = objective(recognition_weight=0.0), objective(contrastive_weight=0.0)
    assert first.views == {"unlabeled": ("semimtr", "semimtr")} and second.views == {"labeled": ("semimtr", "semimtr")}
    losses = first(batch_of(first))
    losses.total.backward()
    assert losses.named.keys() == {"contrastive_loss", "matched_fraction"}
    assert all(parameter.grad is None for parameter in first.recognizer.decoder.parameters())
    losses = second(batch_of(second))
    losses.total.backward()
    assert losses.named.keys() == {"recognition_loss"}


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_another_recognizer_is_read_by_its_whole_decoder(name):
    model = objective(name)
    batch = batch_of(model)
    expected = 0
    for number in range(2):
        decoder = model.recognizer.decoder
        decoded = model.recognizer(batch.labeled.views[number], decoder.inputs(batch.labeled.targets))
        expected = expected + decoder.loss(decoded, batch.labeled.targets)
    assert model(batch).named["recognition_loss"].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(("constants", "message"), [
    ({"contrastive_weight": 0.0, "recognition_weight": 0.0}, "found 0 for both"),
    ({"windows": 129}, "1 to 128 windows, as many as the encoder gives cells, found 129"),
    ({"temperature": 0.0}, "found 0.0"),
])
def test_refuses_constants_that_make_no_sense(constants, message):
    with pytest.raises(ValueError, match=message):
        objective(**constants)


def test_the_vision_head_s_batch_statistics_are_of_all_words():
    """ABINet's position attention has some; the authors' pass all words through it, and leave the cross-entropy of the unlabeled ones out."""
    torch.manual_seed(0)
    model = SemiMTRVision(build("abinet", CHARSET, **(ABINET | {"vision": "large"}))).double().train()
    batch, seen = batch_of(model), []
    model.recognizer.decoder.vision.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    model(batch)
    assert seen == [5, 5]


def test_images_of_several_widths_are_refused():
    recognizer = build("crnn_tiny", Charset.named("36"), aspect="keep")
    with pytest.raises(ValueError, match="semimtr_vision expects images of one width, labeled and unlabeled in one batch, found a recognizer with aspect keep"):
        SemiMTRVision(recognizer)
    SemiMTRVision(recognizer, recognition_weight=0.0)


def test_the_whole_abinet_is_told_that_validation_will_not_see_what_is_learned():
    with pytest.warns(UserWarning, match="iterations: 0"):
        SemiMTRVision(build("abinet", CHARSET, **(ABINET | {"iterations": 1})))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SemiMTRVision(build("abinet", CHARSET, **ABINET))


# --- two ranks ------------------------------------------------------------------------------------------------------

def half(batch: Batch, rank: int) -> Batch:
    """The first rank has the shorter labeled word, and one of two unlabeled images."""
    labeled, unlabeled = batch.labeled, batch.unlabeled
    mine = slice(rank, rank + 1)
    return Batch(Part(labeled.images, labeled.keys[mine], labeled.texts[mine], labeled.targets[mine], tuple(view[mine] for view in labeled.views)),
                 Part(unlabeled.images, unlabeled.keys[mine], views=tuple(view[mine] for view in unlabeled.views)))


def _one_of_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = objective()
    parallel = DistributedDataParallel(model)
    losses = parallel(half(batch_of(model, unlabeled=2), rank))
    losses.total.backward()
    torch.save({"loss": losses.total.detach(), "gradients": {name: p.grad for name, p in model.named_parameters() if p.requires_grad}},
               f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_with_half_the_batch_each_are_one_rank_with_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(_one_of_two_ranks, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    model = objective()
    losses = model(batch_of(model, unlabeled=2))
    losses.total.backward()
    assert sum(rank["loss"].item() for rank in ranks) / 2 == pytest.approx(losses.total.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(ranks[0]["gradients"][name], parameter.grad, rtol=1e-5, atol=1e-10)
