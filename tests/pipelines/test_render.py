"""Synthetic words: what is drawn, with which faces, and the corpus that `textray render` makes of it."""

import json
import math
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest

from models.charset import Charset
from pipelines import cli
from pipelines.corpus.images import decode_gray, perceptual_hash
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.ingestion.chunks import filter_reason, plan_chunks
from pipelines.synthesis.corpus import EVERYTHING, Settings, SyntheticWords, drawn_by_ray, drawn_here, render_corpus, rows_per_shard
from pipelines.synthesis.fonts import PACKAGED, Face, packaged_faces
from pipelines.synthesis.shares import Shares
from pipelines.synthesis.sheet import contact_sheet
from pipelines.synthesis.styles import STYLES
from pipelines.synthesis.synthesizer import render_word, synthesizer
from pipelines.synthesis.words import Words

ASCII = Charset.named("94").characters


def fonts_folder(folder: Path, *names: str) -> Path:
    """A folder that holds some of the packaged faces."""
    folder.mkdir()
    for face in packaged_faces():
        if face.name in names:
            (folder / face.path.name).write_bytes(face.path.read_bytes())
    return folder


def test_a_picture_depends_on_style_seed_and_index_alone():
    first = [render_word(7, index) for index in range(6)]
    synthesizer.cache_clear()  # as in a fresh process, and in another order
    again = [render_word(7, index) for index in reversed(range(6))]
    assert again[::-1] == first
    assert render_word(8, 0) != first[0]
    assert render_word(7, 0, "plain") != first[0]


@pytest.mark.parametrize("style", STYLES)
def test_every_style_draws_words_within_its_bounds(style):
    _, _, least, most = STYLES[style].height
    labels = set()
    for index in range(300):
        data, text = render_word(0, index, style)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert data[:2] == b"\xff\xd8" and picture.shape[0] <= most and picture.shape[1] <= 384
        assert picture.shape[0] >= least or picture.shape[1] > 370  # only long words are drawn lower
        assert picture.std() > 2  # something is to be seen
        assert 0 < len(text) <= 25 and set(text) <= set(ASCII)
        labels.add(text)
    assert len(labels) > 200


def test_plain_is_dark_on_light_and_street_is_mostly_the_other_way_round():
    def ground_is_lighter(style: str) -> float:
        lighter = []
        for index in range(200):
            gray = decode_gray(render_word(1, index, style)[0])
            lighter.append(np.median(gray) > gray.mean())  # the ground covers most of the picture
        return np.mean(lighter)

    assert ground_is_lighter("plain") > 0.95
    assert ground_is_lighter("street") < 0.4


@pytest.mark.parametrize(("charset", "characters"), [("36", set("0123456789abcdefghijklmnopqrstuvwxyz")),
                                                     ("62", set(ASCII[:62])), ("94", set(ASCII)), ("abc", set("abc")),
                                                     ("ACER", set("ACER")), ("0123", set("0123"))])
def test_labels_stay_within_charset_and_length(charset, characters):
    chosen = Charset.named(charset)
    words = Words(chosen, max_length=12)
    labels = [words.draw(Random(index)).text for index in range(15000)]
    assert all(1 <= len(label) <= 12 and not chosen.outside(label) for label in labels)
    assert set("".join(map(chosen.normalise, labels))) == characters  # and every character occurs


def test_words_come_in_the_cases_of_signs():
    words = Words(Charset.named("36"))
    labels = [label for label in (words.draw(Random(index)).text for index in range(4000)) if len(label) > 2]
    assert 0.4 < np.mean([label.isupper() for label in labels]) < 0.6
    assert 0.15 < np.mean([label.istitle() for label in labels]) < 0.3
    assert 0.1 < np.mean([label.islower() for label in labels]) < 0.25
    assert np.mean([label.isdigit() for label in labels]) > 0.03


def test_marks_that_the_charset_lacks_are_drawn_but_not_labeled():
    words = Words(Charset.named("36"))
    drawn = [words.draw(Random(index)) for index in range(500)]
    marked = [word for word in drawn if word.drawn != word.text]
    assert marked and all("".join(filter(str.isalnum, word.drawn)) == word.text for word in marked)


def test_things_are_drawn_by_their_shares():
    shares = Shares({"a": 1, "never": 0, "b": 3})
    random = Random(0)
    drawn = [shares.pick(random) for _ in range(4000)]
    assert set(drawn) == {"a", "b"} and 0.7 < drawn.count("b") / 4000 < 0.8
    with pytest.raises(ValueError, match="share above 0"):
        Shares({"a": 0})


def test_every_packaged_face_loads_and_draws_letters_and_digits():
    faces = packaged_faces()
    assert {face.family for face in faces} == set(PACKAGED) and len(faces) >= 70
    for face in faces:
        assert face.draws("ABCXYZ0123456789"), face
        assert face.glyph("A", 32).pixels.max() == 255 and face.glyph("A", 32).advance > 5, face
    assert sum(face.draws(ASCII) for face in faces) >= 65


def test_a_face_does_not_draw_what_it_has_no_glyph_for():
    faces = {face.name: face for face in packaged_faces()}
    assert not faces["Roboto-Bold"].draws("\u0e01")  # Thai: the box for missing glyphs
    assert not faces["cmr10"].draws("a<b")  # TeX's encoding holds another character there
    assert faces["AmaticSC-Bold"].draws("HOTEL") and not faces["AmaticSC-Bold"].draws("Hotel")  # it has capitals alone
    assert faces["Roboto-Bold"].draws("Main Street")


def test_an_all_capitals_face_is_never_used_for_small_letters(tmp_path):
    fonts = fonts_folder(tmp_path / "fonts", "AmaticSC-Bold", "Roboto-Bold")
    words = tmp_path / "words.txt"
    words.write_text("Hotel\nBAR\n", encoding="utf-8")
    draw = synthesizer("scene", "62", words=str(words), fonts=str(fonts))
    used = {(draw._face(Random(index), word)[0].name, word.text) for index in range(50)
            for word in [draw.words.draw(Random(index))]}
    assert used == {("Roboto-Bold", "Hotel"), ("Roboto-Bold", "BAR"), ("AmaticSC-Bold", "BAR")}


def test_a_word_file_is_drawn_as_it_stands(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("\ufeffX1:23\n\n  Größe \nfar-too-long-for-this\nΩ\n", "utf-8")
    draw = synthesizer("plain", ASCII + "öß", 10, words=str(words))
    assert draw.words.refused == 2  # the long one, and Ω
    assert {draw.render(0, index)[1] for index in range(30)} == {"X1:23", "Größe"}


def test_shards_are_cut_by_the_number_of_pictures_alone():
    rows = {1: 1000, 1500: 1000, 64_000: 1000, 64_001: 2000, 100_000: 2000, 10**8: 100_000}
    assert {count: rows_per_shard(count) for count in rows} == rows


def test_shards_are_the_same_under_ray_and_without(tmp_path, ray_session):
    words = SyntheticWords("plain", 100, Settings("plain", seed=3, charset="36"))
    chunks = list(plan_chunks([words], 40))
    for name, draw in (("here", drawn_here), ("ray", drawn_by_ray)):
        (tmp_path / name).mkdir()
        results = list(draw(chunks, str(tmp_path / name), str(tmp_path / name)))
        assert sorted((result.index, result.counts.kept) for result in results) == [(0, 40), (1, 40), (2, 20)]
    for shard in ("part-plain-00000.parquet", "part-plain-00001.parquet", "part-plain-00002.parquet"):
        assert (tmp_path / "here" / shard).read_bytes() == (tmp_path / "ray" / shard).read_bytes()


def test_a_broken_off_corpus_is_continued_by_the_same_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipelines.synthesis.corpus.rows_per_shard", lambda count: 20)
    settings = Settings("plain")
    whole = render_corpus(tmp_path / "whole", 60, settings)
    drawn = []

    def break_off(chunks, folder, done):
        for result in drawn_here(chunks, folder, done):
            if len(drawn) == 2:
                raise KeyboardInterrupt
            drawn.append(result.index)
            yield result

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pipelines.synthesis.corpus.drawn_here", break_off)
        render_corpus(tmp_path / "corpus", 60, settings)
    assert not (tmp_path / "corpus").exists()
    corpus = render_corpus(tmp_path / "corpus", 60, settings)
    assert "of 60 words are drawn" in capsys.readouterr().err
    assert corpus.sha256 == whole.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "whole"]


def test_a_corpus_is_replaced_only_when_asked(tmp_path):
    first = render_corpus(tmp_path / "corpus", 5, Settings("plain"))
    with pytest.raises(BadInput, match="--overwrite"):
        render_corpus(tmp_path / "corpus", 5, Settings("plain", seed=1))
    assert Corpus.open(tmp_path / "corpus").sha256 == first.sha256
    assert render_corpus(tmp_path / "corpus", 5, Settings("plain", seed=1), overwrite=True).sha256 != first.sha256


def test_the_corpus_says_what_it_holds(tmp_path, capsys):
    out = tmp_path / "made" / "corpus"
    options = ["-n", "60", "--style", "street", "--seed", "5", "--charset", "36"]
    assert cli.main(["render", "--out", str(out), *options]) == 0
    assert "60 labeled pictures in style street, seed 5" in capsys.readouterr().out
    corpus = Corpus.open(out)
    counts = corpus.manifest.sources["street"]
    assert corpus.rows == counts.rows_in == counts.kept == counts.labeled == 60
    [rows] = [table.to_pylist() for table in corpus.rows_iter()]
    data, text = synthesizer("street", "36").render(5, 17)
    gray = decode_gray(data)
    assert rows[17] == {"key": "street/5/000000017", "image": data, "text": text, "source": "street",
                        "width": gray.shape[1], "height": gray.shape[0], "phash": perceptual_hash(gray),
                        "confidence": None, "labeler": None}
    made_by = corpus.manifest.made_by
    assert (made_by["style"], made_by["seed"], made_by["count"]) == ("street", 5, 60)
    assert "HankenGrotesk-Bold" in made_by["fonts"]
    assert [path.name for path in out.parent.iterdir()] == ["corpus"]  # nothing half-written stays


def test_the_manifest_names_the_word_file_by_content_not_by_place(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("BUS\n12\ntoo_long\n", encoding="utf-8")
    render_corpus(tmp_path / "corpus", 5, Settings(charset="36", max_length=4, words=str(words)), source="buses")
    text = (tmp_path / "corpus" / "corpus.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert json.loads(text)["made_by"]["words"]["left_out"] == 1 and json.loads(text)["sources"]["buses"]["kept"] == 5


def test_a_contact_sheet_shows_the_first_pictures(tmp_path):
    file = tmp_path / "sheet.png"
    assert cli.main(["render", "--sheet", str(file), "-n", "9", "--style", "plain"]) == 0
    sheet = cv2.imread(str(file))
    assert sheet.shape == (2 * 84, 8 * 184, 3)
    assert (sheet == contact_sheet(Settings("plain"), 9)).all()
    assert (sheet[84:, 184:] == 255).all() and (sheet[84:, :184] != 255).any()  # one picture in the second row


def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "greek.txt").write_text("Ωμέγα\n", "utf-8")
    (tmp_path / "no fonts").mkdir()
    (tmp_path / "bad fonts").mkdir()
    (tmp_path / "bad fonts" / "a.ttf").write_bytes(b"not a font")
    capitals = fonts_folder(tmp_path / "capitals", "AmaticSC-Bold")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine", encoding="utf-8")  # no corpus, so never ours to remove
    before = sorted(tmp_path.rglob("*"))
    out = ["--out", str(tmp_path / "corpus"), "-n", "5"]
    for arguments, sentence in [
        (out + ["--words", str(tmp_path / "missing.txt")], "expected a file of words"),
        (out + ["--words", str(tmp_path / "empty.txt")], "found none among the 0 in"),
        (out + ["--words", str(tmp_path / "binary.txt")], "expected a UTF-8 text file"),
        (out + ["--words", str(tmp_path / "greek.txt")], "found none among the 1 in"),
        (out + ["--words", str(tmp_path)], "cannot be read"),
        (out + ["--fonts", str(tmp_path / "nowhere")], "expected a folder of .ttf or .otf"),
        (out + ["--fonts", str(tmp_path / "no fonts")], "found none: check --fonts"),
        (out + ["--fonts", str(tmp_path / "bad fonts")], "FreeType cannot open"),
        (out + ["--fonts", str(capitals)], "AmaticSC-Bold comes nearest and lacks"),
        (out + ["--charset", "abca"], "each character once"),
        (out + ["--charset", "ab\u0e01"], "expected a font that draws every character"),
        (out + ["--charset", "ab\u05d0"], "left to right"),
        (out + ["--charset", ";"], "widen --charset"),
        (out + ["--max-length", "0"], "check --max-length"),
        (out + ["--style", "sceen"], "one of the styles scene, plain, street"),
        (out + ["--seed", "-1"], "check --seed"),
        (["--out", str(tmp_path / "corpus"), "-n", "0"], "check -n"),
        (["--out", str(tmp_path / "taken"), "-n", "5"], "a folder with other files"),
        (["--out", str(tmp_path / "empty.txt"), "-n", "5"], "found a file"),
        (["--out", str(tmp_path / "empty.txt" / "corpus"), "-n", "5"], "choose another --out"),
        (["--sheet", str(tmp_path / "nowhere" / "sheet.png"), "-n", "2"], "name another --sheet"),
        (["--sheet", str(tmp_path / "sheet.png"), "-n", "0"], "check -n"),
        (["--sheet", str(tmp_path / "sheet.gif"), "-n", "1"], "ends in .png or .jpg"),
    ]:
        assert cli.main(["render", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("textray: error: ") and sentence in error and error.count("\n") == 1, (arguments, error)
        assert sorted(tmp_path.rglob("*")) == before, arguments


def test_a_face_that_is_no_font_is_named(tmp_path):
    (tmp_path / "a.ttf").write_bytes(b"\0\1\0\0")
    with pytest.raises(BadInput, match="a.ttf"):
        Face(tmp_path / "a.ttf")


def test_what_was_asked_for_is_kept_however_faint_it_came_out():
    assert (EVERYTHING.min_side, EVERYTHING.max_aspect, EVERYTHING.min_contrast) == (0, math.inf, 0)
    faint = np.full((3, 200), 128, np.uint8)
    assert filter_reason(faint, "word", EVERYTHING) is None
