"""MORAN v2: its recorded outputs, its published weights and its rectifier. The decoder is in test_moran_decoder.py."""

import copy
from math import floor

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from benchmarks.parity.moran import rebuild
from benchmarks.parity.records import compare, load_formula
from models.charset import Charset
from models.encoders.morn import MORN
from models.families.four_stage import four_stage
from models.families.moran import moran
from models.published.four_stage import FOUR_STAGE
from models.published.moran import MORAN

CHARSET, LETTERS = Charset.named("36"), Charset("ab")


@pytest.fixture(scope="module")
def recognizer():
    """MORAN as built by default, in eval mode; a test that changes it must change it back."""
    torch.manual_seed(0)
    return moran(CHARSET).eval()


@pytest.fixture
def morn():
    """A small rectifier whose running statistics are those of some images, so that its offsets are of either sign."""
    torch.manual_seed(0)
    morn = MORN(height=16, width=24)
    morn(images(16, height=16, width=24))
    for norm in morn.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
            norm.reset_running_stats()
    morn(images(16, height=16, width=24))
    return morn.eval()


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def images(count, *, channels=1, height=64, width=200, seed=0):
    coarse = torch.rand(count, channels, height // 4, width // 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, (height, width), mode="bilinear")


# ---- against the authors' implementation ----


def test_reproduces_the_recorded_outputs(parity_data):
    rows = compare(parity_data / "moran_formula.pt")
    assert {row.quantity for row in rows} >= {"rectified_test", "rectified_train_path", "feature_slice", "greedy_l2r", "greedy_r2l",
                                              "tf_l2r", "tf_r2l", "tf_loss", "fractional pickup"}
    assert [row for row in rows if not row.found <= row.limit] == []


def test_another_record_is_rebuilt_from_its_configuration(parity_data, tmp_path):
    """Recorded from ourselves: other sizes, one direction, gradient norms. An output that is not compared is a row that fails."""
    formula = load_formula(parity_data)
    small = moran(Charset("0123456789"), height=16, width=48, target_height=16, target_width=32, hidden=8, bidirectional=False,
                  max_length=3)
    shapes = {name: tuple(tensor.shape) for name, tensor in MORAN.save(small).items()}
    trained = {MORAN.published_name(small, name) for name, _ in small.named_parameters()}
    record = {"config": {"nc": 1, "nclass": 11, "nh": 8, "targetH": 16, "targetW": 32, "BidirDecoder": False}, "labels": ["407", "1"],
              "param_shapes": {name: shape for name, shape in shapes.items() if name in trained},
              "buffers": {name: tensor for name, tensor in MORAN.save(small).items() if name not in trained},
              "input": images(2, height=16, width=48), "output": {"greedy_l2r": torch.zeros(2, 4, 11)}}
    rebuilt = rebuild(record, formula).double()
    picture = record["input"].double()
    targets = rebuilt.decoder.encode(record["labels"])
    features = rebuilt.encoder(rebuilt.rectifier(picture))
    record["output"] = {"greedy_l2r": rebuilt(picture).logits.detach(), "tf_lengths": torch.tensor([4, 2]),
                        "feature_slice": features.detach()}
    rebuilt.train()
    rebuilt.rectifier.rectified_share, rebuilt.decoder.fractional_pickup = 1.0, False
    loss = rebuilt.decoder.loss(rebuilt(picture, rebuilt.decoder.inputs(targets)), targets)
    loss.backward()
    record["output"] |= {"train_loss": loss.detach(), "train_grad_norm": {
        MORAN.published_name(rebuilt, name): parameter.grad.norm().item() for name, parameter in rebuilt.named_parameters()}}
    file = tmp_path / "moran_small_formula64.pt"
    torch.save(record, file)
    rows = compare(file, formula)
    assert {row.quantity for row in rows} == {"greedy_l2r", "tf_lengths", "feature_slice", "training loss",
                                              f"gradient norms of {len(trained)} parameters"}
    assert [row for row in rows if not row.found <= row.limit] == []
    torch.save(record | {"output": record["output"] | {"beam": loss.detach()}}, file)
    assert [row.quantity for row in compare(file, formula) if not row.found <= row.limit] == ["beam"]


def test_parameters():
    with torch.device("meta"):
        both, one = moran(CHARSET), moran(CHARSET, bidirectional=False)
    assert parameters(both) == 20_340_141
    parts = (both.rectifier, both.encoder, both.sequence, both.decoder.left_to_right, both.decoder.right_to_left)
    assert [parameters(part) for part in parts] == [158_211, 15_805_280, 2_892_288, 742_181, 742_181]
    assert parameters(one) == 20_340_141 - 742_181


# ---- published weights ----


@pytest.mark.parametrize(("bidirectional", "channels", "prefix"), [(True, 1, ""), (True, 1, "module."), (False, 3, "module.")])
def test_published_there_and_back(bidirectional, channels, prefix):
    ours = moran(LETTERS, bidirectional=bidirectional, channels=channels, hidden=8)
    published = {prefix + name: tensor for name, tensor in MORAN.save(ours).items()}
    state = MORAN.load(ours, published)
    assert state.keys() == ours.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())
    description = MORAN.describe(MORAN.save(ours), LETTERS)
    assert (description.name, description.charset) == ("moran", LETTERS)
    twin = moran(description.charset, **description.overrides)
    assert {name: tensor.shape for name, tensor in twin.state_dict().items()} == {name: tensor.shape for name, tensor in state.items()}


def test_published_names_and_the_order_of_the_embeddings(recognizer):
    published = MORAN.save(recognizer)
    assert {"MORN.cnn.16.running_var", "ASRN.cnn.block0.1.weight", "ASRN.cnn.block1.0.downsample.0.bias",
            "ASRN.cnn.block5.2.conv1.1.weight",
            "ASRN.rnn.1.rnn.weight_hh_l0_reverse", "ASRN.rnn.0.embedding.weight", "ASRN.attentionL2R.attention_cell.i2h.weight",
            "ASRN.attentionR2L.attention_cell.rnn.bias_hh", "ASRN.attentionR2L.generator.bias"} < published.keys()
    theirs, ours = published["ASRN.attentionL2R.char_embeddings"], recognizer.decoder.left_to_right.embedding.weight
    tokens = recognizer.decoder.tokens
    assert torch.equal(theirs[0], ours[tokens.start])
    assert torch.equal(theirs[1 + tokens.end], ours[tokens.end])
    assert torch.equal(theirs[1], ours[tokens.ids("0", 1)[0]])
    assert MORAN.describe(published, None).overrides == {}
    assert MORAN.matches(published) and not FOUR_STAGE.matches(published)


def test_only_its_own_files_are_taken(recognizer):
    published = MORAN.save(recognizer)
    del published["ASRN.attentionL2R.generator.bias"]
    published["ASRN.attentionL2R.extra"] = torch.zeros(1)
    published["MORN.cnn.1.weight"] = torch.zeros(64, 3, 3, 3)
    with pytest.raises(ValueError) as refusal:
        MORAN.load(recognizer, published)
    assert "missing: ASRN.attentionL2R.generator.bias" in str(refusal.value)
    assert "unexpected: ASRN.attentionL2R.extra" in str(refusal.value)
    assert "MORN.cnn.1.weight (64, 3, 3, 3) instead of (64, 1, 3, 3)" in str(refusal.value)
    del published["ASRN.attentionL2R.generator.weight"]
    with pytest.raises(ValueError, match="the file lacks its decoder"):
        MORAN.describe(published, None)
    crnn = four_stage(CHARSET)
    assert not MORAN.matches(FOUR_STAGE.save(crnn))
    with pytest.raises(ValueError, match="only recognizers with the rectifier MORN"):
        MORAN.save(crnn)


# ---- the rectifier ----


def pixel(image, x, y):
    """The bilinear value of an image (H, W) at x, y in [-1, 1], corners aligned, zero outside."""
    height, width = image.shape
    column, row = (x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)
    left, top = floor(column), floor(row)
    return sum(image[r, c].item() * (1 - abs(row - r)) * (1 - abs(column - c))
               for r in (top, top + 1) for c in (left, left + 1) if 0 <= r < height and 0 <= c < width)


def plain_rectified(morn, image, passes):
    """One image (H, W), pixel by pixel."""
    x, y = (torch.linspace(-1, 1, size, dtype=torch.float64).tolist() for size in (morn.width, morn.height))
    offsets = torch.zeros(morn.height, morn.width, dtype=torch.float64)
    seen = image
    for _ in range(passes):
        resized = torch.tensor([[pixel(seen, a, b) for a in x] for b in y], dtype=torch.float64)
        fine = morn.network(resized[None, None])[0, 0]  # (2, 3)
        windows = fine.unfold(0, 2, 1).unfold(1, 2, 1).flatten(2)
        coarse = windows.clamp(min=0).amax(2) + windows.clamp(max=0).amin(2)  # (1, 2)
        offsets = offsets + torch.tensor([[pixel(coarse, a, 0.0) for a in x]] * morn.height, dtype=torch.float64)
        seen = torch.tensor([[pixel(image, a, b + offset.item()) for a, offset in zip(x, row, strict=True)]
                             for b, row in zip(y, offsets, strict=True)], dtype=torch.float64)
    return seen


@pytest.mark.parametrize("passes", [1, 2])
def test_rectification_is_its_definition(morn, passes):
    morn, picture = morn.double(), images(1, height=20, width=28, seed=3).double()
    with torch.no_grad():
        found = morn.rectified(picture, passes)[0, 0]
        expected = plain_rectified(morn, picture[0, 0], passes)
    assert (expected - F.interpolate(picture, (16, 24), mode="bilinear", align_corners=True)[0, 0]).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_in_eval_mode_it_looks_twice_and_in_training_once(morn):
    pictures = images(2, height=20, width=28)
    assert torch.equal(morn(pictures), morn.rectified(pictures, 2))
    morn.rectified_share = 1.0
    for norm in (layer for layer in morn.train().modules() if isinstance(layer, nn.BatchNorm2d)):
        norm.eval()
    assert torch.equal(morn(pictures), morn.rectified(pictures, 1))


@pytest.mark.usefixtures("float64")
def test_a_constant_offset_shifts_the_rows(morn):
    morn = morn.double()
    pictures = images(2, height=16, width=24)
    shifted = morn.sampled(pictures, torch.full((2, 16, 24), 2 * 3 / 15))  # three rows further down
    torch.testing.assert_close(shifted[:, :, :13], pictures[:, :, 3:])
    torch.testing.assert_close(shifted[:, :, 13:], torch.zeros(2, 1, 3, 24), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_half_of_the_training_batches_are_only_resized(morn):
    morn = morn.double()
    pictures = images(2, height=20, width=28)
    resized = F.interpolate(pictures, (16, 24), mode="bilinear", align_corners=True)
    morn.train()
    whole = []
    for _ in range(60):
        same = [torch.allclose(one, other, rtol=0, atol=1e-12) for one, other in zip(morn(pictures), resized, strict=True)]
        assert same[0] == same[1]  # one draw for the batch
        whole.append(same[0])
    assert 15 < sum(whole) < 45
    morn.rectified_share = 0.0
    morn(pictures).sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in morn.parameters())


def test_a_target_too_small_for_offsets_is_refused():
    with pytest.raises(ValueError, match="at least 16 x 16, found 8 x 100"):
        moran(CHARSET, target_height=8)


# ---- the whole recognizer ----


@pytest.mark.parametrize("count", [1, 3])
def test_the_contract(recognizer, count):
    with torch.no_grad():
        frames = recognizer.encode(images(count))
        decoded = recognizer(images(count))
        reading = recognizer.decoder.read(decoded)
    steps = decoded.logits.shape[1]
    assert frames.shape == (count, 25, 256)
    assert decoded.logits.shape == decoded.branches["right_to_left"].shape == (count, steps, 37)
    assert decoded.glimpses.shape == (count, steps, 256) and decoded.attention.shape == (count, steps, 25)
    assert [len(text) for text in reading.texts] == [len(each) for each in reading.characters]
    assert reading.confidences.shape == (count,) and reading.confidences.dtype == torch.float32


@pytest.mark.usefixtures("float64")
def test_seven_images_read_the_same_together_and_alone(recognizer):
    recognizer, pictures = copy.deepcopy(recognizer).double(), images(7, height=64, width=200)
    with torch.no_grad():
        together = recognizer.read(pictures)
        alone = [recognizer.read(pictures[i:i + 1]) for i in range(7)]
        assert torch.equal(recognizer(pictures[:1]).logits, recognizer(pictures[:1]).logits)
    assert together.texts == [reading.texts[0] for reading in alone]
    torch.testing.assert_close(together.confidences, torch.cat([reading.confidences for reading in alone]), rtol=1e-6, atol=0)


def test_every_parameter_gets_a_finite_gradient_under_mixed_precision():
    torch.manual_seed(0)
    recognizer = moran(CHARSET, height=32, width=100)
    targets = recognizer.decoder.encode(["hello", "42"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = recognizer(images(2, channels=3, height=32, width=100), recognizer.decoder.inputs(targets))
    recognizer.decoder.loss(decoded, targets).backward()
    gradients = {name: parameter.grad for name, parameter in recognizer.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


def test_a_training_step_never_waits_for_the_device():
    """Fake tensors have no values: whatever would have to fetch one from the device fails."""
    with FakeTensorMode():
        recognizer = moran(CHARSET).train()
        targets = torch.zeros(2, 27, dtype=torch.int64)
        memory = recognizer.encode(torch.empty(2, 1, 64, 200))
        forced = recognizer.decoder(memory, recognizer.decoder.inputs(targets))
        assert recognizer.decoder.loss(forced, targets).shape == ()
        assert forced.logits.shape == recognizer.decoder(memory).logits.shape == (2, 26, 37)
        recognizer.eval()
        with pytest.raises(DataDependentOutputException):
            recognizer(torch.empty(2, 1, 64, 200))
        recognizer.decoder.stops_early = False
        assert recognizer(torch.empty(2, 1, 64, 200)).logits.shape == (2, 26, 37)


def test_the_initialisation(recognizer):
    kernel = recognizer.encoder.block5[0].conv2[0].weight
    assert kernel.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)  # fan-out
    assert recognizer.decoder.right_to_left.embedding.weight.std().item() == pytest.approx(1, rel=0.05)
    assert recognizer.encoder.block0[1].momentum == 0.01


def test_images_of_another_height_are_refused(recognizer):
    with pytest.raises(ValueError, match=r"expected images of shape \(n, 1 or 3, 64, width\)"):
        recognizer(images(1, height=32, width=100))
