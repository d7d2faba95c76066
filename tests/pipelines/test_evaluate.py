"""What counts as a word read rightly, on pictures made here and a reader whose answers are known."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models.charset import Charset
from models.decoders.decoded import Reading
from models.decoding.ngram import trained_on
from models.recognizer import Recognizer
from models.recognizers import build
from pipelines import evaluate
from pipelines.augmentation.views import augment
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import Rejected, rejected_table, write_quarantine
from pipelines.corpus.shards import ShardWriter
from pipelines.errors import BadInput
from pipelines.evaluation.measure import evaluate_recognizer
from pipelines.evaluation.protocols import rule_of
from pipelines.reading.batches import as_input
from pipelines.reading.searches import Draw, spelled
from pipelines.reading.weights import save_recognizer


def picture(level: int, height: int = 20, width: int = 60) -> bytes:
    """A PNG of one gray level, so that the reader below can know which one it sees."""
    return cv2.imencode(".png", np.full((height, width, 3), level, np.uint8))[1].tobytes()


class KnowsByGray(nn.Module):
    """Reads an image as the string that belongs to its gray level, with a given confidence."""

    height, width, aspect, channels, max_length, charset = 32, 100, "stretch", 1, 25, Charset.named("36")

    def __init__(self, answers: dict[int, tuple[str, float]], charset: Charset = charset):
        super().__init__()
        self.charset = charset
        self.scale, self.answers = nn.Parameter(torch.ones(())), answers
        self.batches: list[int] = []

    def read(self, images):
        assert not self.training and images.shape[1:] == (3, 32, 100)
        self.batches.append(len(images))
        levels = ((images.mean((1, 2, 3)) + 1) * 127.5).round().int().tolist()
        texts, confidences = zip(*(self.answers[level] for level in levels))
        return Reading(list(texts), torch.tensor(confidences), [[confidence] * len(text) for text, confidence in zip(texts, confidences, strict=True)])


def test_words_are_compared_by_the_rule_and_bad_images_count_as_wrong():
    reader = KnowsByGray({10: ("hello", 0.9), 20: ("wrld", 0.5), 30: ("x", 0.25)})
    words = [("a", picture(10), "Hello!"), ("b", picture(20), "World"), ("c", b"\x89PNG\r\n\x1a\n no more", "Lost"),
             ("d", picture(30), None), ("e", None, "Missing")]
    evaluation = evaluate_recognizer(reader, words, batch_size=2)
    assert [(word.key, word.correct, word.prediction) for word in evaluation.words] == \
        [("a", True, "hello"), ("b", False, "wrld"), ("c", False, ""), ("e", False, "")]
    assert evaluation.unlabeled == 1 and [word.key for word in evaluation.unreadable] == ["c", "e"]
    score = evaluation.score
    assert (score.words, score.correct, score.edits, score.characters) == (4, 1, 0 + 1 + 4 + 7, 5 + 5 + 4 + 7)
    assert score.confidence == pytest.approx((0.9 + 0.5) / 2)
    assert score.one_minus_ned == pytest.approx((1 + 0.8) / 4)
    assert score.calibration_error == pytest.approx((0.1 + 0.5) / 2)  # one right at 0.9, one wrong at 0.5
    assert score.seconds > 0 and reader.batches == [2]  # c and e never reached the recognizer


def test_words_of_every_script_are_compared_by_what_the_charset_has():
    bengali = Charset("কখগঘচতলাি")
    reader = KnowsByGray({10: ("কলকাতা", 0.9), 20: ("খাল", 0.9), 30: ("", 0.9)}, bengali)
    words = [("a", picture(10), "কলকাতা"), ("b", picture(20), "তাল"), ("c", picture(30), "Hotel")]
    evaluation = evaluate_recognizer(reader, words)
    assert [word.correct for word in evaluation.words] == [True, False, False]
    assert (evaluation.score.correct, evaluation.score.incomparable) == (1, 1)
    assert evaluate_recognizer(reader, words, rule=rule_of("36", bengali)).score.correct == 0  # "" is not equal to "", whatever was read


def test_the_worst_mistakes_are_confident_and_far():
    reader = KnowsByGray({10: ("zzzz", 0.2), 20: ("abcx", 0.9), 30: ("zzzz", 0.9), 40: ("abcd", 1.0)})
    words = [(str(level), picture(level), "abcd") for level in (10, 20, 30, 40)]
    evaluation = evaluate_recognizer(reader, words, keep_worst=2)
    assert [mistake.word.key for mistake in evaluation.worst] == ["30", "20"]  # 0.9, 0.225; the first has 0.2
    assert evaluation.worst[0].image == picture(30)
    assert evaluate_recognizer(reader, words, keep_worst=0).worst == []


def test_train_and_eval_modes_are_restored_module_by_module():
    recognizer = build("crnn_tiny", Charset.named("36")).train()
    recognizer.encoder.eval()  # frozen, as in a decoder evaluation
    before = [module.training for module in recognizer.modules()]
    evaluate_recognizer(recognizer, [("a", picture(10), "a")])
    assert [module.training for module in recognizer.modules()] == before


def test_the_preprocessing_is_that_of_the_view_none():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 100, 3), np.uint8)
    trained_on = augment(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), "none", torch.Generator())
    assert torch.equal(as_input(list(images), torch.device("cpu")), trained_on)


def test_a_recognizer_reads_the_same_in_batches_of_any_size():
    torch.manual_seed(0)
    recognizer = build("crnn_tiny", Charset.named("36"))
    noise = np.random.default_rng(0).integers(0, 256, (7, 40, 90, 3), np.uint8)
    words = [(str(index), cv2.imencode(".png", image)[1].tobytes(), "a") for index, image in enumerate(noise)]
    one, seven = (evaluate_recognizer(recognizer, words, batch_size=size).words for size in (1, 7))
    assert [word.prediction for word in one] == [word.prediction for word in seven]


def make_corpus(folder: Path, sources: dict[str, list[tuple[bytes, str | None]]], lost: int = 0) -> Path:
    folder.mkdir()
    entries, counts = [], {}
    for source, rows in sources.items():
        with ShardWriter(folder, source, 0, rows_per_group=2) as writer:
            for index, (image, text) in enumerate(rows):
                writer.write(key=f"{source}/{index}", image=image, text=text, width=60, height=20, phash=0)
        entries.append(writer.entry)
        counts[source] = SourceCounts(rows_in=len(rows) + lost, kept=len(rows), quarantined=lost,
                                      labeled=sum(text is not None for _, text in rows),
                                      reasons={"corrupt image": lost} if lost else {})
    rejected = [Rejected(f"{source}/lost{index}", source, "quarantined", "corrupt image")
                for source in sources for index in range(lost)]
    write_quarantine(folder, [rejected_table(rejected)])
    write_manifest(folder, entries, counts, {})
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    torch.manual_seed(0)
    return save_recognizer(tmp_path / "model", build("crnn_tiny", Charset.named("36")))


def test_the_command_prints_a_table_and_writes_every_number(model, tmp_path, capsys):
    rows = [(picture(10), "AB"), (picture(30), "c-d"), (picture(50), None)]
    corpus = make_corpus(tmp_path / "corpus", {"SVT": rows, "signs": rows[:1]}, lost=1)
    out = tmp_path / "out"
    assert evaluate.main([str(model), "--data", str(corpus), "--data", f"all={corpus}", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    header, svt, signs, both, average = printed.splitlines()[:5]
    assert header.split()[:2] == ["set", "words"]
    assert svt.split()[:2] == ["SVT", "2"] and signs.split()[:2] == ["signs", "1"] and both.split()[:2] == ["all", "3"]
    assert average.split()[:2] == ["average", "6"]
    assert "not the published set: SVT has 647 words, this is 2" in svt
    assert "1 without a readable label, not counted" in svt
    assert "1 of its rows were left out when it was ingested" in svt and "published" not in signs
    assert str(out) in printed

    numbers = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert [row["words"] for row in numbers["sets"]] == [2, 1, 3] and numbers["average"]["words"] == 6
    assert 0 <= numbers["average"]["ece"] <= 1 and len(numbers["average"]["reliability"]) == 15 and "ece" in numbers["computed_as"]
    assert "ECE %" in header and "Are confidences honest?" in (out / "evaluation.html").read_text(encoding="utf-8")
    assert numbers["recognizer"]["name"] == "crnn_tiny" and [row["rule"] for row in numbers["sets"]] == ["36", "charset", "charset"]
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["set"], line["key"], line["label"]) for line in lines][:3] == \
        [("SVT", "SVT/0", "AB"), ("SVT", "SVT/1", "c-d"), ("signs", "signs/0", "AB")]
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("<img") == sum(not line["correct"] for line in lines)
    assert sorted(file.name for file in out.iterdir()) == ["evaluation.html", "evaluation.json", "predictions.jsonl"]


def test_foreign_formats_are_read_where_they_lie(model, tmp_path, capsys):
    for leaf, rows in {"street": [(10, "A"), (20, "B")], "shop": [(30, "C")]}.items():
        folder = tmp_path / "tree" / leaf
        folder.mkdir(parents=True)
        for level, _ in rows:
            (folder / f"{level}.png").write_bytes(picture(level))
        (folder / "labels.tsv").write_text("".join(f"{level}.png\t{text}\n" for level, text in rows) + "gone.png\tD\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out"
    tree = tmp_path / "tree"
    assert evaluate.main([str(model), "--data", str(tree), "--data", f"both={tree}", "--out", str(out)]) == 0
    rows = capsys.readouterr().out.splitlines()[1:5]
    assert [row.split()[:2] for row in rows] == [["shop", "2"], ["street", "3"], ["both", "5"], ["average", "10"]]
    assert all("unreadable, counted as wrong" in row for row in rows[:3])
    assert "both/street/gone.png" in (out / "evaluation.html").read_text(encoding="utf-8")
    assert [path for path in sorted(tmp_path.rglob("*")) if out not in (path, path.parent)] == before


def test_a_missed_gate_is_said_and_exits_with_one(model, tmp_path, capsys):
    corpus = make_corpus(tmp_path / "corpus", {"signs": [(picture(10), "nobody reads this")]})
    command = [str(model), "--data", str(corpus), "--out", str(tmp_path / "out")]
    assert evaluate.main([*command, "--gate", "signs=0.5"]) == 1
    assert "signs: accuracy 0.0000 (0 of 1) is below 0.5" in capsys.readouterr().err
    assert evaluate.main([*command, "--gate", "average=0"]) == 0


@pytest.mark.parametrize("arguments, sentence", [
    (["--gate", "signs"], "expected NAME=ACCURACY"), (["--gate", "sings=0.5"], "expected one of signs, average"),
    (["--gate", "signs=85"], "an accuracy from 0 to 1"), (["--batch-size", "0"], "expected at least 1"),
    (["--data", "signs=CORPUS"], "sets with different names"),
    (["--device", "gpu"], "--device: expected a device .*cpu.*found 'gpu'"), (["--device", "cuda:99"], "found 'cuda:99'")])
def test_bad_arguments_are_explained_before_anything_is_read(model, tmp_path, arguments, sentence):
    corpus = make_corpus(tmp_path / "corpus", {"signs": [(picture(10), "a")]})
    arguments = [argument.replace("CORPUS", str(corpus)) for argument in arguments]
    with pytest.raises(BadInput, match=sentence):
        evaluate.main([str(model), "--data", str(corpus), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_the_models_own_rule_counts_and_benchmarks_keep_the_fields(tmp_path, capsys):
    torch.manual_seed(0)
    own = {"charset": "charset", "36": "36", "exact": "exact"}
    corpus = make_corpus(tmp_path / "corpus", {source: [(picture(10), "Ab-c"), (picture(30), "!?")] for source in ("IIIT5K", "signs")})
    for rule in own:
        model = save_recognizer(tmp_path / rule, build("crnn_tiny", Charset.named("94")), {"rule": rule})
        for chosen in (None, "62"):
            numbers, words = run(model, corpus, tmp_path / "out", *(["--rule", chosen] if chosen else []))
            assert [row["rule"] for row in numbers["sets"]] == [chosen or "36", chosen or own[rule]]
            assert ("1 with nothing left to compare, counted as wrong" in numbers["sets"][1]["notes"]) == ((chosen or rule) in ("36", "62"))
    with pytest.raises(BadInput, match="expected one of the rules charset, 36, 62, 94, exact, found 'mine'"):
        evaluate.main([str(save_recognizer(tmp_path / "mine", build("crnn_tiny", Charset.named("94")), {"rule": "mine"})), "--data", str(corpus)])


def test_a_set_of_which_nothing_can_be_compared_is_explained(model, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", {"signs": [(picture(10), "কলকাতা"), (picture(30), "তাল")]})
    with pytest.raises(BadInput, match="signs: expected labels that the rule charset can compare, found none among the 2 words .*'কলকাতা'.*--rule"):
        evaluate.main([str(model), "--data", str(corpus), "--out", str(tmp_path / "out")])


def test_a_set_without_labels_is_explained(model, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", {"wild": [(picture(10), None)]})
    with pytest.raises(BadInput, match="wild: expected labeled words .*found 1 rows without a label"):
        evaluate.main([str(model), "--data", str(corpus), "--out", str(tmp_path / "out")])


def test_a_set_of_which_no_image_can_be_read_is_explained(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("file_name,text\nphotos/a.png,A\nphotos/b.png,B\n", encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        evaluate.main([str(model), "--data", "test=labels.csv", "--out", "out"])
    assert str(caught.value) == ("test: expected images that can be read in labels.csv, found none among 2 (the first is test/photos/a.png: no image): check that the names of the "
                                 "labels are those of the images")
    assert not (tmp_path / "out").exists()


def run(model: Path, corpus: Path, out: Path, *options: str) -> tuple[dict, list[dict]]:
    """What `textray evaluate` writes: its numbers, and a line for each word."""
    assert evaluate.main([str(model), "--data", str(corpus), "--out", str(out), *options]) == 0
    lines = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8")), [json.loads(line) for line in lines]


NOISE = [cv2.imencode(".png", image)[1].tobytes() for image in np.random.default_rng(1).integers(0, 256, (4, 32, 100, 3), np.uint8)]


@pytest.mark.parametrize("options, note", [
    (["--beam", "4"], "beam of 4"), (["--beam", "4", "--ngram", "WORDS", "--ngram-weight", "0.5"], "beam of 4, 5-gram words.txt x 0.5"),
    (["--beam", "4", "--ngram", "MODEL"], "beam of 4, 2-gram model.json x 0.3")])
def test_a_beam_reads_a_set_and_the_notes_say_so(model, tmp_path, options, note):
    (tmp_path / "words.txt").write_text("some words, a line\nand another line\n", encoding="utf-8")
    trained_on(["some", "words"], Charset.named("36"), 2).save(tmp_path / "model.json")
    options = [option.replace("WORDS", str(tmp_path / "words.txt")).replace("MODEL", str(tmp_path / "model.json")) for option in options]
    corpus = make_corpus(tmp_path / "corpus", {"signs": [(image, "word") for image in NOISE]})
    numbers, lines = run(model, corpus, tmp_path / "out", *options)
    assert numbers["sets"][0]["notes"] == [note] and len(lines) == 4
    assert all(0 < line["confidence"] <= 1 for line in lines)


@pytest.fixture
def short_words(tmp_path) -> Path:
    """An ABINet whose language model knows one thing: a word has ended."""
    abinet = build("abinet", Charset.named("36"), hidden=64)
    torch.nn.init.zeros_(abinet.decoder.language.classifier.weight)
    abinet.decoder.language.classifier.bias.data = torch.nn.functional.one_hot(torch.tensor(abinet.decoder.tokens.end), 37) * 20.0
    return save_recognizer(tmp_path / "short", abinet)


def test_the_language_model_of_an_abinet_ranks_what_a_beam_found(model, short_words, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", {"signs": [(image, "word") for image in NOISE]})
    _, plain = run(model, corpus, tmp_path / "plain", "--beam", "4")
    numbers, ranked = run(model, corpus, tmp_path / "ranked", "--beam", "4", "--bcn", str(short_words), "--bcn-weight", "100")
    assert numbers["sets"][0]["notes"] == [f"beam of 4, BCN of {short_words} x 100"]
    _, without = run(model, corpus, tmp_path / "without", "--beam", "4", "--bcn", str(short_words), "--bcn-weight", "0")
    assert [line["prediction"] for line in without] == [line["prediction"] for line in plain]
    lengths = [[len(line["prediction"]) for line in lines] for lines in (plain, ranked)]
    assert all(long >= short for long, short in zip(*lengths, strict=True)) and lengths[0] != lengths[1]


def test_mixed_precision_reads_in_bfloat16_and_is_noted(model, tmp_path, monkeypatch):
    read, types = Recognizer.read, []
    monkeypatch.setattr(Recognizer, "read", lambda self, images: types.append(self(images).logits.dtype) or read(self, images))
    corpus = make_corpus(tmp_path / "corpus", {"signs": [(image, "word") for image in NOISE]})
    exact, _ = run(model, corpus, tmp_path / "float32")
    mixed, _ = run(model, corpus, tmp_path / "bf16", "--precision", "bf16")
    assert types == [torch.float32, torch.bfloat16]
    assert exact["sets"][0]["notes"] == [] and mixed["sets"][0]["notes"] == ["bf16"]


@pytest.mark.parametrize("lexicon, note", [
    ("full", "lexicon of its 3 different labels"), ("2", "lexicon of 2: the true word and others of its labels"),
    ("50", "lexicon of 3: the true word and others of its labels"), ("FILE", "lexicon words.txt of 2 words")])
def test_with_a_lexicon_its_words_are_read_and_no_others(model, tmp_path, lexicon, note):
    (tmp_path / "words.txt").write_text("other\nwords\n\ntwo words\n", encoding="utf-8")
    corpus = make_corpus(tmp_path / "corpus", {"signs": [(NOISE[0], "One!"), (NOISE[1], "TWO"), (NOISE[2], "three"), (NOISE[3], None)]})
    options = ["--lexicon", lexicon.replace("FILE", str(tmp_path / "words.txt"))]
    numbers, lines = run(model, corpus, tmp_path / "out", *options)
    assert numbers["sets"][0]["notes"][0] == note
    assert {line["prediction"] for line in lines} <= ({"other", "words"} if lexicon == "FILE" else {"one", "two", "three"})
    again = run(model, corpus, tmp_path / "again", *options, "--batch-size", "1")[1]
    assert [line["prediction"] for line in again] == [line["prediction"] for line in lines]


def test_the_words_beside_the_true_one_are_drawn_by_its_key():
    draw = Draw([f"word{number}" for number in range(500)])
    first = draw.of("SVT/1", 17, 50)
    assert len(set(first)) == 50 and 17 in first and first == draw.of("SVT/1", 17, 50)
    assert len(set(first) & set(draw.of("SVT/2", 17, 50))) < 20
    assert sorted(draw.of("SVT/1", None, 1000)) == list(range(500))
    drawn = np.bincount([place for key in range(400) for place in draw.of(str(key), None, 50)], minlength=500)
    assert drawn.min() > 15 and drawn.max() < 75  # 40 each, give or take
    assert spelled("It's 5!", Charset.named("36")) == "its5"


@pytest.mark.parametrize("arguments, sentence", [
    (["--ngram", "words.txt"], "--ngram: expected --beam N with it"),
    (["--bcn", "MODEL"], "--bcn: expected --beam N with it"),
    (["--beam", "5", "--bcn", "MODEL"], "--bcn: expected an abinet, whose language model ranks the strings, found crnn_tiny"),
    (["--beam", "5", "--bcn", "nowhere"], "nowhere"),
    (["--beam", "5", "--lexicon", "50"], "expected --beam or --lexicon, found both"),
    (["--beam", "0"], "a beam of at least 1, found 0"), (["--lexicon", "1"], "at least 1 other, found 1"),
    (["--lexicon", "nowhere.txt"], "--lexicon: expected a file that can be read, found nowhere.txt"),
    (["--beam", "5", "--ngram", "nowhere.json"], "--ngram: expected a file that can be read, found nowhere.json"),
    (["--beam", "5", "--ngram", "BYTES"], "--ngram: expected a text file in UTF-8"),
    (["--beam", "5", "--ngram", "OTHER"], "36 characters, found one over 3"),
    (["--beam", "5", "--ngram", "GREEK"], "found none among 1"), (["--lexicon", "GREEK"], "found none among 1 words")])
def test_a_search_that_cannot_be_made_is_explained(model, tmp_path, arguments, sentence):
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "greek.txt").write_text("αβγ\n", encoding="utf-8")
    trained_on(["abc"], Charset("abc")).save(tmp_path / "other.json")
    files = {"BYTES": "bytes.txt", "GREEK": "greek.txt", "OTHER": "other.json", "MODEL": "model"}
    arguments = [str(tmp_path / files[argument]) if argument in files else argument for argument in arguments]
    corpus = make_corpus(tmp_path / "corpus", {"signs": [(picture(10), "a")]})
    with pytest.raises(BadInput, match=sentence):
        evaluate.main([str(model), "--data", str(corpus), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()
