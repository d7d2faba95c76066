"""CCR for CTC by strings: what is compared has no places, teaches as a label does, and begins where the trained decoder stands."""

from itertools import product
from math import prod

import pytest
import torch

from ccr_models import BOTH, HALF, ccr, different_views, full_batch, objective, plain_string
from models.charset import Charset, CTCTokens
from models.decoders.ctc_loss import ctc_losses
from models.objectives.distances import string_distances
from models.objectives.readings import collapsed, read


def test_what_frames_write_is_their_string():
    frames = torch.tensor([[0, 3, 3, 0, 3, 5, 5, 0], [4, 4, 4, 4, 4, 4, 4, 4], [0, 0, 0, 0, 0, 0, 0, 0], [1, 2, 1, 2, 1, 2, 1, 2]])
    assert collapsed(frames, 0).tolist() == [[3, 3, 5, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0, 0], [0] * 8, [1, 2, 1, 2, 1, 2, 1, 2]]
    assert [plain_string(row) for row in frames.tolist()] == [[3, 3, 5], [4], [], [1, 2, 1, 2, 1, 2, 1, 2]]


def test_the_string_form_knows_no_places():
    """The same characters in other frames are as near; where frames are compared a shift of one frame is far."""
    classes = torch.tensor([[0, 3, 0, 0, 5, 5, 0, 0]])
    sure = 20.0 * torch.nn.functional.one_hot(classes, 6).double()
    shifted = sure.roll(1, dims=1)
    same, moved, other = (string_distances(classes, logits, 0).item() for logits in (sure, shifted, sure.roll(1, dims=2)))
    assert same == pytest.approx(moved, abs=1e-9) and same < 1e-6 < 5 < other


def test_an_image_that_reads_as_nothing_teaches_nothing():
    model = ccr("crnn_tiny", confidence_threshold=0.0, projection="none")
    with torch.no_grad():
        model.target.decoder.classifier.bias[0] = 1e4
    losses = model(different_views(model))
    assert losses.named["kept_fraction"] == 0 and losses.named["consistency_loss"] == 0


@pytest.mark.parametrize("device_form", [False, True])
def test_the_string_form_has_the_gradient_of_a_labels_loss(device_form):
    """The target's string as a label: with one kept image it is the decoder's own loss of that label."""
    model = ccr("crnn_tiny", projection="none", domain_adaptation=False, confidence_threshold=0.0)
    batch = different_views(model)
    target = read(model.target(batch.unlabeled.views[0]).logits, model.recognizer.decoder.tokens)
    texts = ["".join(model.recognizer.decoder.tokens.character(symbol) for symbol in plain_string(row)) for row in target.symbols.tolist()]
    online = model.recognizer(batch.unlabeled.views[1])
    labels = torch.zeros_like(target.symbols)
    for row, text in zip(labels, texts, strict=True):
        row[:len(text)] = torch.tensor([model.recognizer.decoder.tokens.first_character + model.recognizer.charset.index[c] for c in text])
    log_probabilities = online.logits.log_softmax(-1).transpose(0, 1)
    ours = (ctc_losses(log_probabilities, labels, 0) if device_form else string_distances(target.symbols, online.logits, 0)).mean()
    theirs = torch.nn.functional.ctc_loss(log_probabilities, labels, torch.full((6,), log_probabilities.shape[0]), (labels != 0).sum(1))
    parameters = list(model.recognizer.parameters())
    for one, other in zip(torch.autograd.grad(ours, parameters, retain_graph=True, allow_unused=True),
                          torch.autograd.grad(theirs, parameters, allow_unused=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert model(batch).named["consistency_loss"].item() == pytest.approx(theirs.item(), rel=1e-9)


def test_the_score_of_a_string_is_the_sum_over_its_alignments():
    """Of three classes in four frames all 81 paths are few enough to be listed."""
    logits = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[4, :, 0] = 9  # reads as nothing
    reading = read(logits, CTCTokens(Charset("ab")), "string")
    for words, row, score in zip(logits.softmax(-1), reading.symbols.tolist(), reading.scores.tolist(), strict=True):
        paths = [path for path in product(range(3), repeat=4) if plain_string(path) == plain_string(row)]
        wanted = sum(prod(words[frame, symbol].item() for frame, symbol in enumerate(path)) for path in paths)
        assert score == pytest.approx(wanted if plain_string(row) else 0.0, rel=1e-12)
    assert reading.scores[4] == 0 < reading.scores[:4].min()


def test_ccr_keeps_by_the_score_of_the_string():
    model = ccr("crnn_tiny", score="string")
    batch = different_views(model)
    tokens, logits = model.recognizer.decoder.tokens, model.target(batch.unlabeled.views[0]).logits
    assert model(batch).named["mean_score"].item() == pytest.approx(read(logits, tokens, "string").scores.mean().item(), rel=1e-9)


@pytest.mark.parametrize("kind", ["ccr", "fixmatch", "uda", "flexmatch", "freematch", "softmatch"])
def test_every_method_can_keep_by_it_for_ctc_alone(kind):
    model = objective(kind, "crnn_tiny", score="string")
    batch = full_batch(model)
    product = objective(kind, "crnn_tiny", score="product")
    assert model(batch).named["mean_score"] < product(batch).named["mean_score"]  # of all alignments a string has only some
    with pytest.raises(ValueError, match="score=string_mean expects a CTC decoder, whose strings have many alignments, found one of the kind attention"):
        objective(kind, "trba_tiny", score="string_mean")


@pytest.mark.parametrize("kind", ["fixmatch", "uda", "flexmatch", "freematch", "softmatch"])
def test_the_methods_of_single_images_score_a_string_by_the_mean_of_its_characters(kind):
    assert objective(kind, "crnn_tiny").score == "string_mean" and objective(kind, "trba_tiny").score == "geometric_mean"


def test_the_mean_of_a_string_is_the_root_of_its_probability():
    logits = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = CTCTokens(Charset("ab"))
    whole, mean = (read(logits, tokens, score).scores for score in ("string", "string_mean"))
    for symbols, probability, root in zip(read(logits, tokens).symbols.tolist(), whole.tolist(), mean.tolist(), strict=True):
        length = len(plain_string(symbols))
        assert root == pytest.approx(probability ** (1 / length) if length else 0.0, rel=1e-12)


def test_frames_of_a_view_that_moves_the_image_are_compared_with_a_warning():
    with pytest.warns(UserWarning, match="its strong view moves the image.*alignment=string compares what is read"):
        ccr("crnn_tiny", alignment="frames")


@BOTH
def test_a_residual_projection_begins_as_the_identity(name):
    batch = different_views(ccr(name))
    without, residual = (ccr(name, projection=projection, **HALF)(batch) for projection in ("none", "residual"))
    assert without.total == residual.total
    model = ccr(name, projection="residual", confidence_threshold=0.0)
    model(batch).total.backward()
    assert model.projection.inner[-1].weight.grad.abs().max() > 0  # and learns from the first step
