"""CCR against what the authors' code gave for the same logits and glimpses, and with decoders that write all symbols at once."""

import math

import pytest
import torch
from torch import Tensor, nn

from models.batch import Batch, Part
from models.charset import Charset, attention_tokens
from models.decoders.decoded import Decoded
from models.decoders.parseq import parseq_tokens
from models.objectives import CCR
from models.objectives.coral import coral
from models.objectives.distances import hard_distances
from models.objectives.readings import read
from models.objectives.signals import signals
from models.recognizers import build

CASES = ["kl_default", "kl_threshold0", "kl_temperature_minus1", "kl_none_kept", "kl_lambda2", "ce_default", "ce_threshold08", "ce_none_kept"]


@pytest.fixture(scope="module")
def recorded(parity_data) -> dict:
    return torch.load(parity_data / "ccr_variants.pt", map_location="cpu", weights_only=True)


class GivenDecoder(nn.Module):
    """Gives back its memory, which holds logits and glimpses side by side, and remembers what it was fed."""

    kind = "attention"
    tokens = attention_tokens(Charset("0123456"), "fewer_labels")

    def __init__(self, glimpse_width: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(glimpse_width, self.tokens.classes)
        self.fed: list[Tensor | None] = []

    def forward(self, memory: Tensor, tokens: Tensor | None = None, projection: nn.Module | None = None) -> Decoded:
        self.fed.append(tokens)
        return Decoded(memory[..., :self.tokens.classes], memory[..., self.tokens.classes:])

    def inputs(self, targets: Tensor) -> Tensor:
        return targets

    def loss(self, decoded: Decoded, targets: Tensor) -> Tensor:
        return 0.0 * decoded.logits.sum()


class GivenRecognizer(nn.Module):
    """Its images are its outputs."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.decoder = GivenDecoder(6)
        self.weight = nn.Parameter(start.clone())
        self.register_buffer("statistic", torch.zeros(()))

    def encode(self, images: Tensor) -> Tensor:
        return images

    def forward(self, images: Tensor, tokens: Tensor | None = None) -> Decoded:
        return self.decoder(images, tokens)


def objective_of(case: dict, inputs: dict, score: str) -> CCR:
    """With the options of a recorded case. Their temperature of 0 or less means 1; a threshold of 1.01 keeps as little as one of 1 does here."""
    options, temperature = case["options"], case["options"]["uda_softmax_temp"]
    kind = {"consistency": "cross_entropy"} if score == "minimum" else {"sharpening_temperature": temperature if temperature > 0 else 1.0}
    model = CCR(GivenRecognizer(inputs["target_w_before"]), projection="none", score=score, coral_form="authors_code", **kind,
                ema_decay=options["ema_alpha"], consistency_weight=options["lambda_cons"], domain_adaptation_weight=options["lambda_mmd"],
                confidence_threshold=min(options["confident_threshold"], 1.0), labeled_confidence_threshold=options["l_confident_threshold"])
    with torch.no_grad():
        model.recognizer.weight.copy_(inputs["online_w"])
        model.recognizer.statistic.fill_(inputs["online_buffer"])
    return model


# Both are float32 sums of fewer than 100 terms of size 1: 100 half units in the last place, 6e-6. In float64 only the record was rounded.
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 5e-6)])
@pytest.mark.parametrize("name", CASES)
def test_reproduces_the_authors_losses_and_gradients(recorded, name, dtype, tolerance):
    case, inputs = recorded["cases"][name], recorded["inputs"]
    model = objective_of(case, inputs, "minimum" if name.startswith("ce") else "product").to(dtype)
    labeled, online, target = (
        torch.cat([logits, glimpses], -1).to(dtype).requires_grad_(True)
        for logits, glimpses in ((inputs["labeled_logits"], inputs["labeled_glimpses"]), (inputs["online_logits"], inputs["online_glimpses"]),
                                 (inputs["target_logits"], torch.zeros_like(inputs["online_glimpses"]))))
    targets = torch.zeros(len(labeled), 8, dtype=torch.int64)
    model.after_step(1)  # theirs moves the target at the start of the next step
    losses = model(Batch(Part(labeled, [], targets=targets, views=(labeled,)), Part(online, [], views=(target, online))))
    losses.total.backward()

    torch.testing.assert_close(model.target.weight.detach(), case["target_w_after"].to(dtype), rtol=0, atol=tolerance)
    assert model.target.statistic == case["target_buffer_after"]
    assert not model.target.training and case["target_in_eval"] and target.grad is None
    assert losses.named["kept_fraction"].item() == pytest.approx(case["kept_fraction"])
    found = [losses.named["consistency_loss"].item() * model.consistency_weight,
             losses.named["domain_adaptation_loss"].item() * model.domain_adaptation_weight]
    if not case["online_called"]:  # theirs stops there; ours runs the online branch, with the same nothing as outcome
        assert found == [0, 0] and torch.count_nonzero(online.grad) == torch.count_nonzero(labeled.grad) == 0
        return
    assert found == pytest.approx([case["consistency_loss"].item(), case["adaptation_loss"].item()], rel=0, abs=tolerance)
    assert torch.equal(model.recognizer.decoder.fed[-1], case["fed"])
    for gradient, wanted in ((online.grad[..., :12], case["grad_online_logits"]), (online.grad[..., 12:], case["grad_online_glimpses"]),
                             (labeled.grad[..., 12:], case["grad_labeled_glimpses"])):
        torch.testing.assert_close(gradient, wanted.to(dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize("score, recorded_as", [("product", "product_score"), ("minimum", "minimum_score")])
def test_reads_as_the_authors_do(recorded, score, recorded_as):
    wanted = recorded["reading"]
    reading = read(wanted["target_logits"].double(), GivenDecoder.tokens, score)
    assert torch.equal(reading.inputs, wanted["pseudo"][:, :-1]) and torch.equal(reading.symbols, wanted["pseudo"][:, 1:])
    assert torch.equal(reading.steps, wanted["counted_steps"]) and torch.equal(reading.steps.sum(1), wanted["lengths"])
    torch.testing.assert_close(reading.scores, wanted[recorded_as].double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sizes", ["5x7x4", "40x30x8", "2x2x3"])
def test_reproduces_the_authors_coral(recorded, sizes):
    case = recorded["coral"][sizes]
    source, unlabeled = (case[side].double()[None].requires_grad_(True) for side in ("source", "unlabeled"))
    masks = [torch.ones(vectors.shape[:2], dtype=torch.bool) for vectors in (source, unlabeled)]
    loss = coral(source, masks[0], unlabeled, masks[1], "authors_code")
    loss.backward()
    for found, wanted in ((loss.detach(), case["loss"]), (source.grad[0], case["grad_source"]), (unlabeled.grad[0], case["grad_unlabeled"]),
                          (coral(source, masks[0], unlabeled, masks[1]).detach(), case["paper_form_from_the_formula"])):
        torch.testing.assert_close(found, wanted.double(), rtol=1e-5, atol=1e-6)


# --- decoders that write all symbols at once --------------------------------------------------------------------------


def parallel(name: str):
    torch.manual_seed(3)
    sizes = {"abinet": {"hidden": 32, "language_layers": 1, "vision_layers": 1}, "vitstr": {"size": "tiny"}}[name]
    return build(name, Charset("abc"), max_length=5, **sizes).double()


PARALLEL = pytest.mark.parametrize("name", ["abinet", "vitstr"])


@PARALLEL
def test_the_words_of_parallel_decoders_end_with_their_end_symbol(name):
    tokens = parallel(name).decoder.tokens  # of ABINet 0 starts, ends and pads
    a, b = tokens.ids("ab", 5)
    logits = 5.0 * torch.nn.functional.one_hot(torch.tensor([[a, b, tokens.end, a, a, a], [a, b, a, b, a, b], [tokens.end, b, b, b, b, b]]),
                                               tokens.classes).double()
    reading = read(logits, tokens)
    assert reading.steps.sum(1).tolist() == [3, 6, 1] and reading.characters.sum(1).tolist() == [2, 5, 0]
    assert reading.symbols[0, :3].tolist() == [a, b, tokens.end] and reading.symbols[1].tolist() == [a, b, a, b, a, tokens.end]
    probability = math.exp(5) / (math.exp(5) + tokens.classes - 1)
    assert reading.scores.tolist() == pytest.approx([probability**3, probability**6, probability])
    assert read(logits, tokens, "geometric_mean").scores.tolist() == pytest.approx([probability] * 3)


def test_padding_that_is_no_class_is_not_counted():
    tokens = parseq_tokens(Charset("abc"))  # end 0, a 1, b 2, c 3; start 4 and padding 5 are fed alone
    assert tokens.pad >= tokens.classes
    logits = torch.randn(2, 4, tokens.classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[0, :2, 0] -= 50
    logits[:, 2, 0] += 50
    reading = read(logits, tokens)
    assert (reading.symbols == tokens.pad).any()
    expected = [sum(-logits[n, t].log_softmax(0).max() for t in range(steps)) / steps for n, steps in enumerate(reading.steps.sum(1).tolist())]
    torch.testing.assert_close(hard_distances(reading, logits, tokens), torch.stack(expected))
    assert signals(reading, reading, reading.is_read, tokens)["agreement"] == 1


@PARALLEL
def test_parallel_decoders_are_compared_position_by_position(name):
    model = CCR(parallel(name), confidence_threshold=0.0, projection="none", sharpening_temperature=1.0, domain_adaptation=False).double().eval()
    weak, strong = (torch.rand(3, 3, 32, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    targets = model.recognizer.decoder.encode(["ab", "c", "abc"])
    losses = model(Batch(Part(weak, [], targets=targets, views=(weak,)), Part(weak, [], views=(weak, strong))))
    losses.total.backward()

    target, online = (model.recognizer(view).logits.detach() for view in (weak, strong))
    gaps, steps = 0.0, 0
    for one, other in zip(target, online, strict=True):
        for p, q in zip(one.softmax(-1).tolist(), other.softmax(-1).tolist(), strict=True):
            gaps, steps = gaps + sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), steps + 1
            if not model.recognizer.decoder.tokens.is_character(p.index(max(p))):
                break
    assert losses.named["consistency_loss"].item() == pytest.approx(gaps / steps, rel=1e-9)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.requires_grad)
    same = model(Batch(Part(weak, [], targets=targets, views=(weak,)), Part(weak, [], views=(weak, weak))))
    assert same.named["consistency_loss"].item() == pytest.approx(0, abs=1e-12) and same.named["agreement"] == 1
