"""What holds for every registered recognizer, and what holds for the parts of some."""

import copy
import io

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from learning import learn
from models.charset import Charset
from models.families.four_stage import four_stage
from models.recognizers import RECOGNIZERS, build

CHARSET = Charset.named("36")
WORDS = ["hello", "42", "scenetext", "a", "ooze", "1234567890", "textray", "zz"]
NAMES = sorted(RECOGNIZERS)
SMALL = [name for name in NAMES if name.endswith("_tiny")]

# (encoder, sequence, decoder) -> parameters without and with TPS, for 36 characters and one channel; from the
# benchmark's own modules.
FOUR_STAGE = {
    ("vgg", "none", "ctc"): (5_568_805, 7_261_197),
    ("vgg", "none", "attention"): (6_584_102, 8_276_494),
    ("vgg", "bilstm", "ctc"): (8_451_621, 10_144_013),
    ("vgg", "bilstm", "attention"): (9_148_710, 10_841_102),
    ("rcnn", "none", "ctc"): (1_878_949, 3_571_341),
    ("rcnn", "none", "attention"): (2_894_246, 4_586_638),
    ("rcnn", "bilstm", "ctc"): (4_761_765, 6_454_157),
    ("rcnn", "bilstm", "attention"): (5_458_854, 7_151_246),
    ("resnet", "none", "ctc"): (44_282_885, 45_975_277),
    ("resnet", "none", "attention"): (45_298_182, 46_990_574),
    ("resnet", "bilstm", "ctc"): (47_165_701, 48_858_093),
    ("resnet", "bilstm", "attention"): (47_862_790, 49_555_182),
}
FRAMES = {"vgg": {100: 24, 128: 31}, "rcnn": {100: 26, 128: 33}, "resnet": {100: 26, 128: 33}}


def parameters(recognizer):
    return sum(parameter.numel() for parameter in recognizer.parameters())


def images(count, *, channels=3, height=32, width=100, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def images_for(recognizer, count, width=None):
    return images(count, height=recognizer.height, width=width or recognizer.width)


@pytest.fixture(scope="module", params=NAMES)
def recognizer(request):
    """Every registered recognizer, in eval mode; a test that changes it must change it back."""
    torch.manual_seed(0)
    return build(request.param, CHARSET, max_length=10).eval()  # long enough for WORDS; fewer steps than by default


@pytest.mark.parametrize(("stages", "counts"), FOUR_STAGE.items(), ids=["-".join(stages) for stages in FOUR_STAGE])
def test_parameters_of_the_24_combinations(stages, counts):
    encoder, sequence, decoder = stages
    with torch.device("meta"):
        found = tuple(parameters(four_stage(CHARSET, rectifier=rectifier, encoder=encoder, sequence=sequence,
                                            decoder=decoder)) for rectifier in ("none", "tps"))
    assert found == counts


@pytest.mark.parametrize(("name", "charset", "channels", "count"), [
    ("crnn", "36", 1, 8_451_621), ("crnn", "94", 1, 8_466_527),
    ("trba", "36", 1, 49_555_182), ("trba", "94", 1, 49_629_480), ("trba", "94", 3, 49_631_208),
])
def test_parameters_of_the_named_recognizers(name, charset, channels, count):
    with torch.device("meta"):
        assert parameters(build(name, Charset.named(charset), channels=channels)) == count


@pytest.mark.parametrize("name", SMALL)
def test_tiny_recognizers_have_under_a_million_parameters(name):
    assert parameters(build(name, CHARSET)) < 1_000_000


@pytest.mark.parametrize("width", [100, 128])
@pytest.mark.parametrize("encoder", FRAMES)
def test_frames_per_width(encoder, width):
    with FakeTensorMode():
        for rectifier in ("none", "tps"):
            recognizer = four_stage(CHARSET, rectifier=rectifier, encoder=encoder, width=width)
            assert recognizer.encode(torch.empty(1, 1, 32, width)).shape == (1, FRAMES[encoder][width], 256)


@pytest.mark.parametrize("count", [1, 3])
def test_the_contract_holds_at_any_batch_size(recognizer, count):
    with torch.no_grad():
        memory = recognizer.encode(images_for(recognizer, count))
        decoded = recognizer.decoder(memory)
        reading = recognizer.decoder.read(decoded)
    steps = decoded.logits.shape[1]
    assert memory.ndim == 3 and len(memory) == count
    assert decoded.logits.shape == (count, steps, recognizer.decoder.tokens.classes)
    assert decoded.glimpses.shape[:2] == (count, steps)
    assert recognizer.decoder.classifier.out_features == recognizer.decoder.tokens.classes
    assert len(reading.texts) == len(reading.characters) == count
    assert [len(text) for text in reading.texts] == [len(each) for each in reading.characters]
    assert reading.confidences.shape == (count,) and reading.confidences.dtype == torch.float32
    assert ((reading.confidences >= 0) & (reading.confidences <= 1)).all()
    if recognizer.decoder.kind == "ctc":
        assert (steps, decoded.attention) == (memory.shape[1], None)
    else:
        assert steps <= recognizer.max_length + 1
    if decoded.attention is not None:
        assert decoded.attention.shape == (count, steps, memory.shape[1])
        torch.testing.assert_close(decoded.attention.sum(2), torch.ones(count, steps))


def test_every_parameter_gets_a_finite_gradient(recognizer):
    targets = recognizer.decoder.encode(WORDS[:3])
    state = copy.deepcopy(recognizer.state_dict())
    torch.manual_seed(1)  # MORAN leaves its rectifier out of every second training step
    recognizer.train()
    recognizer.decoder.loss(recognizer(images_for(recognizer, 3), recognizer.decoder.inputs(targets)), targets).backward()
    gradients = {name: parameter.grad for name, parameter in recognizer.named_parameters()}
    recognizer.zero_grad()
    recognizer.eval()
    recognizer.load_state_dict(state)
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


def test_the_state_dict_carries_the_whole_recognizer(recognizer):
    stored = io.BytesIO()
    torch.save(recognizer.state_dict(), stored)
    stored.seek(0)
    with torch.device("meta"):
        twin = build(recognizer.name, CHARSET, **recognizer.overrides)
    assert {name: tensor.shape for name, tensor in twin.state_dict().items()} == {name: tensor.shape for name, tensor in recognizer.state_dict().items()}
    torch.manual_seed(9)
    twin = build(recognizer.name, CHARSET, **recognizer.overrides).eval()
    twin.load_state_dict(torch.load(stored, weights_only=True))
    with torch.no_grad():  # in eval mode equal outputs show that the mode is deterministic, too
        assert torch.equal(twin(images_for(recognizer, 1)).logits, recognizer(images_for(recognizer, 1)).logits)


@pytest.mark.usefixtures("float64")
def test_three_images_read_the_same_together_and_alone(recognizer):
    recognizer, batch = copy.deepcopy(recognizer).double(), images_for(recognizer, 3)
    with torch.no_grad():
        decoded = recognizer(batch)
        targets = recognizer.decoder.encode(WORDS[:3])
        assert decoded.logits.dtype == recognizer.decoder.loss(recognizer(batch, recognizer.decoder.inputs(targets)), targets).dtype == torch.float64
        together = recognizer.decoder.read(decoded)
        alone = [recognizer.read(batch[i:i + 1]) for i in range(3)]
    assert together.texts == [reading.texts[0] for reading in alone]
    torch.testing.assert_close(together.confidences, torch.cat([reading.confidences for reading in alone]), rtol=1e-6, atol=0)


def test_another_width_is_read_or_refused_in_a_sentence(recognizer):
    wider = recognizer.width + 32
    try:
        with FakeTensorMode():
            twin = build(recognizer.name, CHARSET).eval()
            memory = twin.encode(torch.empty(1, 3, recognizer.height, wider))
            usual = twin.encode(torch.empty(1, 3, recognizer.height, recognizer.width))
    except ValueError as refusal:
        assert str(refusal).startswith("expected") and ("width" in str(refusal) or "columns" in str(refusal))
    else:  # more frames, or as many where a rectifier brings images to one width
        assert memory.shape[1] > usual.shape[1] or (memory.shape == usual.shape and twin.rectifier is not None)


def test_a_training_step_never_waits_for_the_device(recognizer):
    """Fake tensors have no values: whatever would have to fetch one from the device fails."""
    with FakeTensorMode():
        twin = build(recognizer.name, CHARSET, max_length=5).train()
        memory = twin.encode(torch.empty(2, 3, twin.height, twin.width))
        targets = torch.zeros_like(twin.decoder.encode(WORDS[:2]), device="cpu")
        forced = twin.decoder(memory, twin.decoder.inputs(targets))
        if twin.decoder.kind != "ctc":  # on a GPU that is decoders/ctc_loss.py; PyTorch's own, for CPUs, takes lengths on the host
            twin.decoder.loss(forced, targets)
        twin.decoder(memory)
        twin.eval().decoder.stops_early = False  # an exported graph
        twin.decoder(memory)
        if twin.decoder.kind == "attention":  # otherwise it asks, at every step, whether all sequences have ended
            twin.decoder.stops_early = True
            with pytest.raises(DataDependentOutputException):
                twin.decoder(memory)


@pytest.mark.usefixtures("float64")
def test_colour_becomes_luma_and_gray_is_repeated():
    colour = images(2)
    gray = build("crnn_tiny", CHARSET).eval()
    luma = 0.299 * colour[:, :1] + 0.587 * colour[:, 1:2] + 0.114 * colour[:, 2:]
    torch.testing.assert_close(gray.visual(colour), gray.visual(luma))
    colourful = build("crnn_tiny", CHARSET, channels=3).eval()
    torch.testing.assert_close(colourful.visual(luma), colourful.visual(luma.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("shape", [(2, 3, 64, 100), (2, 4, 32, 100), (3, 32, 100)])
def test_images_of_another_form_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected images of shape \(n, 1 or 3, 32, width\)"):
        build("crnn_tiny", CHARSET).visual(torch.zeros(shape))


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", SMALL)
def test_overfits_eight_words(name, mixed):
    torch.manual_seed(0)
    recognizer = build(name, CHARSET)
    learn(recognizer, images(8), WORDS, steps=300, rate=3e-3 if name.startswith("vit") else 1e-2, mixed=mixed)  # transformers want smaller steps
    with torch.no_grad():
        assert recognizer.read(images(8)).texts == WORDS


def test_the_benchmarks_initialisation():
    torch.manual_seed(0)
    recognizer = build("trba", CHARSET)
    assert all(not parameter.any() for name, parameter in recognizer.named_parameters()
               if "bias" in name and "localization_points" not in name)
    assert (recognizer.encoder.bn0_1.weight == 1).all()
    for weight in (recognizer.encoder.conv3.weight, recognizer.sequence[0].rnn.weight_hh_l0):
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
    points = recognizer.eval().rectifier.points(images(1, channels=1))[0]
    assert points[[0, 9, 10, 19]].tolist() == [[-1, 0], [1, -1], [-1, 1], [1, 0]]


def test_build_keeps_what_it_was_given():
    recognizer = build("crnn_tiny", CHARSET, width=128)
    assert (recognizer.name, recognizer.overrides, recognizer.width) == ("crnn_tiny", {"width": 128}, 128)
    assert (recognizer.height, recognizer.channels, recognizer.max_length) == (32, 1, 25)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="found 'crn': did you mean crnn"):
        build("crn", CHARSET)
    with pytest.raises(ValueError, match="setting of the recognizer crnn, found 'widht': did you mean width"):
        build("crnn", CHARSET, widht=128)


@pytest.mark.parametrize("name", ["svtr", "abinet", "trba"])
def test_keeping_the_aspect_ratio_needs_an_encoder_that_takes_narrow_images(name):
    options = {"svtr": {"rectifier": False}, "abinet": {"vision": "small", "hidden": 64}, "trba": {}}[name]
    with pytest.raises(ValueError, match=f"aspect: expected stretch or pad, found keep: .*{name} takes images of one width"):
        build(name, CHARSET, aspect="keep", **options)


@pytest.mark.parametrize("name", ["crnn_tiny", "parseq", "abinet"])
def test_encoders_that_take_narrow_images_may_keep_the_aspect_ratio(name):
    options = {"parseq": {"size": "tiny"}, "abinet": {"hidden": 64}, "crnn_tiny": {}}[name]
    assert build(name, CHARSET, aspect="keep", **options).aspect == "keep"
