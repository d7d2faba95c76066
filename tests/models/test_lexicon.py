"""Choosing a word of a lexicon against scoring every word alone, by definition."""

from itertools import groupby, product
from random import Random

import pytest
import torch

from models.charset import AttentionTokens, Charset
from models.decoders.abinet import abinet_tokens
from models.decoders.attention import AttentionDecoder
from models.decoders.ctc import CTCDecoder
from models.decoders.decoded import Decoded
from models.decoders.moran import BidirectionalDecoder
from models.decoders.symbols import read_symbols
from models.decoding import lexicon as module
from models.decoding.lexicon import Lexicon, edit_distances, lexicon_reading
from pipelines.evaluation.metrics import edit_distance

LETTERS = Charset("ab")
WORDS = ["a", "b", "ab", "ba", "aa", "bab", "abb", "abab"]


class AllAtOnce(torch.nn.Module):
    """A parallel decoder over given logits: the memory itself."""

    kind = "parallel"

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, memory, tokens=None, projection=None):
        return Decoded(memory, memory)

    def read(self, decoded):
        return read_symbols(decoded.logits, self.tokens)


def ctc_probability(logits, text):
    """Summed over every path."""
    probabilities = logits.softmax(1)
    return sum(torch.stack([probabilities[frame, token] for frame, token in enumerate(path)]).prod().item()
               for path in product(range(3), repeat=len(logits))
               if "".join("-ab"[token] for token, _ in groupby(path)).replace("-", "") == text)


def symbols_probability(logits, text, tokens):
    """The product of the symbols' probabilities, the end included: logits (steps, classes)."""
    probabilities = logits.softmax(1)
    product_of = 1.0
    for step, symbol in enumerate([*tokens.ids(text, 9), tokens.end]):
        product_of *= probabilities[step, symbol].item()
    return product_of


def assert_chosen(reading, probabilities):
    """For each image the word with the largest probability, and its share."""
    for text, confidence, own in zip(reading.texts, reading.confidences.tolist(), probabilities, strict=True):
        assert text == max(own, key=own.get)
        assert confidence == pytest.approx(own[text] / sum(own.values()), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_ctc_takes_the_word_with_the_largest_sum_over_paths(temperature):
    torch.manual_seed(0)
    decoder, memory = CTCDecoder(LETTERS, 6).double().eval(), 4 * torch.randn(3, 5, 6, dtype=torch.float64)
    reading = lexicon_reading(decoder, memory, Lexicon(WORDS, LETTERS, 25), temperature=temperature)
    assert_chosen(reading, [{word: ctc_probability(decoder(image).logits / temperature, word) for word in WORDS} for image in memory])


@pytest.mark.parametrize("kind", [AttentionDecoder, BidirectionalDecoder])
def test_attention_takes_the_word_that_it_would_most_likely_write(kind, monkeypatch):
    monkeypatch.setattr(module, "PAIRS", 5)  # several batches, of words of different lengths
    torch.manual_seed(0)
    decoder, memory = kind(LETTERS, 6, hidden=8, max_length=5).double().eval(), 4 * torch.randn(3, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        decoder.classifier.weight.mul_(6)
    reading = lexicon_reading(decoder, memory, Lexicon(WORDS, LETTERS, 5))
    forced = {word: decoder(memory, decoder.inputs(decoder.encode([word] * 3))).logits for word in WORDS}
    assert_chosen(reading, [{word: symbols_probability(forced[word][image], word, decoder.tokens) for word in WORDS} for image in range(3)])


@pytest.mark.parametrize("tokens", [AttentionTokens(LETTERS), abinet_tokens(LETTERS), abinet_tokens(LETTERS, "parseq")])
def test_a_parallel_decoder_takes_the_word_with_the_largest_product(tokens):
    logits = 2 * torch.randn(3, 6, tokens.classes, generator=torch.Generator().manual_seed(0))
    reading = lexicon_reading(AllAtOnce(tokens), logits, Lexicon(WORDS, LETTERS, 5))
    assert_chosen(reading, [{word: symbols_probability(image, word, tokens) for word in WORDS} for image in logits])


def test_each_image_may_have_words_of_its_own():
    torch.manual_seed(0)
    decoder, memory = CTCDecoder(LETTERS, 6).eval(), torch.randn(3, 5, 6)
    lexicon = Lexicon(WORDS, LETTERS, 25)
    reading = lexicon_reading(decoder, memory, lexicon, [[lexicon.places["ba"]], [0, 1], [2, 3, 4]])
    assert reading.texts[0] == "ba" and reading.confidences[0] == 1.0
    assert reading.texts[1] in ("a", "b") and reading.texts[2] in ("ab", "ba", "aa")


def test_a_word_that_no_path_can_write_is_chosen_only_where_there_is_no_other_and_without_confidence():
    decoder, memory = CTCDecoder(LETTERS, 6).eval(), torch.randn(1, 2, 6)  # "aa" needs three frames
    reading = lexicon_reading(decoder, memory, Lexicon(["aa"], LETTERS, 25))
    assert (reading.texts, reading.confidences.tolist()) == (["aa"], [0.0])
    assert lexicon_reading(decoder, memory, Lexicon(["aa", "ab"], LETTERS, 25)).texts == ["ab"]


def random_words(count, letters, longest, seed):
    draw = Random(seed)
    return list({"".join(draw.choices(letters, k=draw.randint(1, longest))) for _ in range(count)})


def test_edit_distances_of_one_text_to_many_are_those_one_by_one():
    words = random_words(400, "abc", 12, 0)
    lexicon = Lexicon(words, Charset("abc"), 25)
    for text in ("", "a", "abcabc", "ccccccccccccccc", *words[:10]):
        found = edit_distances([lexicon.charset.index[letter] for letter in text], lexicon.positions, lexicon.lengths)
        assert found.tolist() == [edit_distance(text, word) for word in lexicon.words]


@pytest.mark.parametrize("alphabet", ["abcdef", "".join(chr(0x4e00 + number) for number in range(200))])
def test_near_words_are_all_that_are_near_or_else_the_nearest(alphabet):
    words = random_words(500, alphabet, 8, 1)
    lexicon = Lexicon(words, Charset(alphabet), 25)
    for text in ("", alphabet[0], words[7][:-1], alphabet[:6], alphabet[3] * 20):
        distances = [edit_distance(text, word) for word in lexicon.words]
        assert lexicon.near(text) == [place for place, distance in enumerate(distances) if distance <= max(3, min(distances))]


@pytest.mark.parametrize("kind", [CTCDecoder, AttentionDecoder])
def test_of_a_large_lexicon_only_what_is_near_the_greedy_reading_is_scored(kind, monkeypatch):
    monkeypatch.setattr(module, "MOST_SCORED", 10)
    torch.manual_seed(0)
    alphabet = Charset("abcdef")
    decoder, memory = kind(alphabet, 6, max_length=6).eval(), 3 * torch.randn(4, 9, 6)
    lexicon = Lexicon(random_words(200, "abcdef", 6, 2), alphabet, 6)
    greedy = decoder.read(decoder(memory)).texts
    reading = lexicon_reading(decoder, memory, lexicon)
    assert all(lexicon.places[chosen] in lexicon.near(text) for chosen, text in zip(reading.texts, greedy, strict=True))
    monkeypatch.setattr(module, "MOST_SCORED", 1000)
    everything = lexicon_reading(decoder, memory, lexicon)
    for chosen, best, text in zip(reading.texts, everything.texts, greedy, strict=True):
        assert chosen == best or edit_distance(best, text) > 3


def test_words_are_spelled_by_the_charset_and_what_cannot_be_written_is_left_out():
    lexicon = Lexicon(["AB", "ab", "", "äb", "abababab", "b"], LETTERS, 4)
    assert lexicon.words == ["ab", "b"] and len(lexicon) == 2
    with pytest.raises(ValueError, match="at most 4 characters out of the charset's 2, found none among 2 words"):
        Lexicon(["xyz", "ababab"], LETTERS, 4)
