"""Beam searches against the enumeration of everything that they could find."""

from functools import partial
from itertools import groupby, product
from math import exp, log

import pytest
import torch

from models.charset import TABLES, AttentionTokens, Charset, ctc_tokens
from models.decoders.attention import AttentionDecoder
from models.decoders.ctc import CTCDecoder
from models.decoders.decoded import Decoded
from models.decoders.language import LanguageModel
from models.decoders.moran import BidirectionalDecoder
from models.decoders.parseq import PARSeqDecoder
from models.decoders.symbols import encode_symbols
from models.decoders.vitstr import ViTSTRDecoder
from models.decoding.attention_beam import attention_beam
from models.decoding.beam import beam_reading
from models.decoding.cloze import pseudo_log_likelihoods
from models.decoding.ctc_beam import prefix_beam
from models.decoding.hypotheses import Hypothesis, best_reading, rescored
from models.decoding.ngram import trained_on
from models.decoding.temperature import at_temperature
from models.recognizers import build

LETTERS = Charset("ab")
WORDS = ["ab", "abba", "aab", "b"]


def every_path(log_probabilities):
    """log p of each string over {a, b}: (frames, 3) log probabilities, blank 0, summed over all 3 ** frames paths."""
    totals = {}
    for path in product(range(3), repeat=len(log_probabilities)):
        text = "".join("-ab"[token] for token, _ in groupby(path)).replace("-", "")
        totals[text] = totals.get(text, 0.0) + exp(sum(log_probabilities[frame, token].item() for frame, token in enumerate(path)))
    return {text: log(total) for text, total in totals.items()}


def every_string(decoder, memory, temperature=1.0):
    """log p of each string of at most max_length letters a and b for one image's memory (1, frames, width), fed by hand."""
    found = {}
    for length in range(decoder.max_length + 1):
        for letters in product("ab", repeat=length):
            row = encode_symbols(["".join(letters)], decoder.tokens, length)
            log_probabilities = (decoder(memory, row[:, :-1]).logits[0] / temperature).log_softmax(1)
            found["".join(letters)] = sum(log_probabilities[step, symbol].item() for step, symbol in enumerate(row[0, 1:].tolist()))
    return found


def assert_found(hypotheses, own, score):
    """Everything was found, with its own probability, in the order of the scores."""
    assert {each.text for each in hypotheses} == own.keys()
    for each in hypotheses:
        assert each.log_probability == pytest.approx(own[each.text], abs=1e-9)
        assert each.score == pytest.approx(score(each.text), abs=1e-5)
    assert [each.text for each in hypotheses] == sorted(own, key=lambda text: -score(text))


@pytest.mark.parametrize("frames", [1, 2, 4, 6])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_a_prefix_beam_that_holds_everything_sums_over_every_path(frames, weight):
    torch.manual_seed(frames)
    log_probabilities = (2 * torch.randn(2, frames, 3, dtype=torch.float64)).log_softmax(2)
    language = trained_on(WORDS, LETTERS, 3) if weight else None
    found = prefix_beam(log_probabilities, ctc_tokens(LETTERS), 150, language, weight)
    for image, hypotheses in zip(log_probabilities, found, strict=True):
        own = every_path(image)
        assert_found(hypotheses, own, lambda text: own[text] + (weight * language.log_probability(text) if weight else 0.0))


def test_paths_meet_in_a_narrow_prefix_beam():
    # The likeliest path is all blanks (0.36); but "a" has 0.24 + 0.24 + 0.16 = 0.64, of three paths.
    log_probabilities = torch.tensor([[[0.6, 0.4, 0.0], [0.6, 0.4, 0.0]]]).log()
    (best, second), = prefix_beam(log_probabilities, ctc_tokens(LETTERS), 2)
    assert (best.text, second.text) == ("a", "")
    assert [exp(best.log_probability), exp(second.log_probability)] == pytest.approx([0.64, 0.36])


def test_a_letter_is_doubled_only_across_a_blank():
    log_probabilities = torch.tensor([[[0.0, 1.0, 0.0], [0.3, 0.7, 0.0], [0.0, 1.0, 0.0]]]).log()
    (best, second), = prefix_beam(log_probabilities, ctc_tokens(LETTERS), 4)
    assert {best.text: exp(best.log_probability), second.text: exp(second.log_probability)} == pytest.approx({"a": 0.7, "aa": 0.3})


def test_a_prefix_beam_writes_characters_only():
    tokens = ctc_tokens(LETTERS, "fewer_labels")  # blank, padding, unknown, space, a, b
    certain = torch.full((1, 2, 6), 0.01)
    certain[0, 0, 2], certain[0, 1, 4] = 0.95, 0.95  # unknown, a
    (best, *_), = prefix_beam(certain.log(), tokens, 3)
    assert best.text == "a"


def sharp(decoder):
    """The decoder in float64 with larger weights, so that its outputs are far from even."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in decoder.double().parameters():
            parameter.normal_(std=0.8)
    return decoder.eval()


DECODERS = {f"attention, {table}": partial(AttentionDecoder, LETTERS, 6, hidden=8, max_length=4, table=table) for table in TABLES} | {
    "moran": partial(BidirectionalDecoder, LETTERS, 6, hidden=8, embedding=5, max_length=4),
    "parseq": partial(PARSeqDecoder, LETTERS, 8, heads=2, max_length=4)}


@pytest.mark.parametrize("name", DECODERS)
def test_an_attention_beam_that_holds_everything_finds_every_string(name):
    decoder = sharp(DECODERS[name]())
    memory = torch.randn(2, 7, 8 if name == "parseq" else 6, dtype=torch.float64)
    own = [every_string(decoder, image.unsqueeze(0)) for image in memory]
    for hypotheses, each in zip(attention_beam(decoder, memory, 40), own, strict=True):
        assert_found(hypotheses, each, each.get)


@pytest.mark.parametrize("weight, normalisation, temperature", [(0.7, 0.0, 1.0), (0.0, 1.0, 1.0), (0.0, 0.6, 2.0), (0.3, 0.5, 0.5)])
def test_an_attention_beam_with_an_ngram_a_length_normalisation_and_a_temperature(weight, normalisation, temperature):
    decoder, memory = sharp(DECODERS["attention, benchmark"]()), torch.randn(1, 7, 6, dtype=torch.float64)
    language = trained_on(WORDS, LETTERS, 3)
    own = every_string(decoder, memory, temperature)
    found, = attention_beam(decoder, memory, 40, temperature=temperature, language=language, weight=weight, normalisation=normalisation)
    assert_found(found, own, lambda text: (own[text] + weight * language.log_probability(text)) / (len(text) + 1) ** normalisation)


@pytest.mark.parametrize("kind", [AttentionDecoder, CTCDecoder])
def test_a_beam_finds_no_less_likely_strings_than_a_narrower_one_and_reads_batches_as_single_images(kind):
    torch.manual_seed(1)
    decoder, memory = kind(Charset("abcdef"), 6, max_length=5).double().eval(), 4 * torch.randn(7, 9, 6, dtype=torch.float64)
    with torch.no_grad():
        decoder.classifier.weight.mul_(8)
    narrow, wide = beam_reading(decoder, memory, 1), beam_reading(decoder, memory, 6)
    assert wide.texts == [beam_reading(decoder, image.unsqueeze(0), 6).texts[0] for image in memory]
    assert all(len(characters) == len(text) for text, characters in zip(wide.texts, wide.characters, strict=True))
    if kind is AttentionDecoder:
        assert (wide.confidences >= narrow.confidences).all()


def test_a_beam_of_one_is_greedy_decoding():
    torch.manual_seed(2)
    decoder, memory = AttentionDecoder(LETTERS, 6, hidden=8, max_length=4).double().eval(), torch.randn(5, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        decoder.classifier.weight.mul_(20)
        decoder.classifier.bias.copy_(torch.tensor([-50.0, 1.0, 0.0, 0.0]))  # the start symbol is never written, most words end
    greedy = decoder.read(decoder(memory))
    ended = [index for index, text in enumerate(greedy.texts) if len(text) <= 4]
    assert len(ended) >= 3
    beam = beam_reading(decoder, memory[ended], 1)
    assert beam.texts == [greedy.texts[index] for index in ended]
    torch.testing.assert_close(beam.confidences, greedy.confidences[ended])


def test_what_a_beam_cannot_do_is_said():
    parallel, ctc = ViTSTRDecoder(LETTERS, 6, max_length=3), CTCDecoder(LETTERS, 6)
    with pytest.raises(ValueError, match="writes all symbols at once: read it greedily"):
        beam_reading(parallel, torch.zeros(1, 9, 6), 5)
    with pytest.raises(ValueError, match="a beam of at least 1, found 0"):
        beam_reading(ctc, torch.zeros(1, 9, 6), 0)
    with pytest.raises(ValueError, match="2 characters, found one over 3"):
        beam_reading(ctc, torch.zeros(1, 9, 6), 5, language=trained_on(["abc"], Charset("abc")), weight=0.5)
    with pytest.raises(ValueError, match="weight of the n-gram of at least 0, found -1"):
        beam_reading(ctc, torch.zeros(1, 9, 6), 5, language=trained_on(["ab"], LETTERS), weight=-1.0)


def test_found_strings_are_ranked_anew_by_another_language_model():
    found = [[Hypothesis("ba", -1.0, -1.0), Hypothesis("ab", -1.5, -1.5)], [Hypothesis("b", -0.1, -0.1)]]
    again = rescored(found, lambda texts: [{"ba": -9.0, "ab": -2.0, "b": -1.0}[text] for text in texts], 0.5)
    assert [[(each.text, each.score) for each in row] for row in again] == [[("ab", -2.5), ("ba", -5.5)], [("b", -0.6)]]
    share = 1 / (1 + exp(-3.0))
    for together, confidences in ((1.0, [share, exp(-0.1)]), (None, [share * (exp(-1.0) + exp(-1.5)), exp(-0.1)])):
        reading = best_reading(again, together)
        assert reading.texts == ["ab", "b"]
        assert reading.confidences.tolist() == pytest.approx(confidences)
    assert best_reading(found).confidences.tolist() == pytest.approx([exp(-1.0), exp(-0.1)])


@pytest.mark.usefixtures("float64")
def test_the_cloze_network_scores_a_word_symbol_by_symbol_from_all_others():
    torch.manual_seed(0)
    tokens = AttentionTokens(LETTERS, first_character=1, start=0, pad=0, end=0)  # ABINet's
    model = LanguageModel(3, 16, steps=5, layers=2, heads=2, feed_forward=32).eval()
    scores = pseudo_log_likelihoods(model, tokens, ["ab", "bbba", "a"])
    for text, score in zip(["ab", "bbba", "a"], scores, strict=True):
        symbols = [1 + "ab".index(letter) for letter in text] + [0]
        given = torch.zeros(1, 5, 3)
        given[0, range(5), symbols + [0] * (5 - len(symbols))] = 1
        logits = model(given, torch.tensor([len(symbols)]))[1][0].log_softmax(1)
        assert score == pytest.approx(sum(logits[place, symbol].item() for place, symbol in enumerate(symbols)), abs=1e-12)
    assert pseudo_log_likelihoods(model, tokens, []) == []


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_a_temperature_changes_confidences_and_no_string(name):
    torch.manual_seed(0)
    recognizer, images = build(name, Charset.named("36")).eval(), torch.rand(3, 3, 32, 100)
    plain = recognizer.read(images)
    recognizer.temperature = 2.5
    softer = recognizer.read(images)
    assert softer.texts == plain.texts
    assert (softer.confidences < plain.confidences).all()


def test_branches_that_are_logits_share_the_temperature():
    branches = {"right_to_left": torch.ones(1, 2, 3), "weights": torch.ones(1, 2, 9)}
    decoded = Decoded(torch.ones(1, 2, 3), torch.ones(1, 2, 4), branches=branches)
    tempered = at_temperature(decoded, 4.0)
    assert tempered.logits.max() == tempered.branches["right_to_left"].max() == 0.25
    assert tempered.branches["weights"].max() == tempered.glimpses.max() == 1
    assert at_temperature(decoded, 1.0) is decoded
