"""The page of a corpus: a small one with everything that can go wrong in it, and what a browser gets to see."""

import base64
import re
import unicodedata
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from pipelines.cli import run
from pipelines.corpus.characters import script, visible
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import Rejected, rejected_table, write_quarantine
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import ShardWriter
from pipelines.corpus.tally import tally
from pipelines.reports import samples
from pipelines.reports.corpus import quoted
from pipelines.reports.histogram import Axis, Histogram
from pipelines.reports.html import isolated
from pipelines.reports.samples import ContactSheets, find_rows, gather_rejects

HOSTILE = "<script>alert(1)</script>"
TURNED = "a\u202eb"  # a right-to-left override, which would turn the rest of the page
HEBREW = "\u05e9\u05dc\u05d5\u05dd"
ACUTE = "\u0301"  # a combining mark
VOID = ("meta", "img", "br")


def png(shade: int, width: int = 40, height: int = 20) -> bytes:
    return cv2.imencode(".png", np.full((height, width, 3), shade, np.uint8))[1].tobytes()


class Page(HTMLParser):
    """What a browser finds: tags that close, text, images."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.words, self.images, self.sections = [], Counter(), [], [], {}
        self.feed(text)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        if tag == "h2":
            self.sections[dict(attrs)["id"]] = len(self.words)
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def section(self, name: str) -> str:
        """The text from one heading to the next."""
        start = self.sections[name]
        later = [place for place in self.sections.values() if place > start]
        return " ".join(" ".join(self.words[start:min(later, default=None)]).split())

    def pictures(self) -> list[np.ndarray]:
        found = []
        for image in self.images:
            kind, data = image["src"].split(",")
            assert kind == "data:image/jpeg;base64"
            found.append(cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR))
            assert found[-1] is not None
        return found


REJECTED = [
    Rejected("a/10", "a", "quarantined", "not an image", "9 bytes", HOSTILE, b"<b>no</b>"),
    Rejected("a/11", "a", "quarantined", "missing image", "", None, None),
    Rejected("a/12", "a", "quarantined", "empty image", "", "x", b""),
    Rejected("a/13", "a", "filtered", "side below 4 px", "30 x 2", "dot", png(9, 30, 2)),
    Rejected("a/14", "a", "duplicate", "exact duplicate", "", "tea", png(10), "a/0"),
    Rejected("a/15", "a", "duplicate", "near duplicate", "distance 3 of 64", "TEA", png(11), "a/0"),
    Rejected("a/16", "a", "duplicate", "near duplicate", "distance 1 of 64", None, png(12), "gone/7"),
    Rejected("a/17", "a", "filtered", "near a benchmark image", "distance 2 of 64", "LIVING", png(13), "test/SVT/000000001"),
    Rejected("empty/1", "empty", "filtered", "side below 4 px", "1 x 1"),
]


def write_corpus(folder: Path, rows: dict[str, list], rejected: list[Rejected]) -> Path:
    """A corpus of (text, image, width, height) rows per source, in row groups of two."""
    folder.mkdir()
    entries, counts = [], {}
    for source, items in rows.items():
        counts[source] = SourceCounts(kept=len(items), labeled=sum(text is not None for text, *_ in items))
        for row in rejected:
            if row.source == source:
                counts[source].reject(row.kind, row.reason)
        counts[source].rows_in = len(items) + sum(counts[source].reasons.values())
        if items:
            with ShardWriter(folder, source, 0, rows_per_group=2) as writer:
                for number, (text, image, width, height) in enumerate(items):
                    writer.write(key=f"{source}/{number}", image=image, text=text, width=width, height=height, phash=0)
            entries.append(writer.entry)
    write_quarantine(folder, [rejected_table(rejected[:4]), rejected_table(rejected[4:])])
    write_manifest(folder, entries, counts, {"command": "test", "sources": ["<here>"]})
    return folder


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Source a: five rows, hostile labels; source b: three unlabeled ones; source empty: nothing got in."""
    texts = ["tea", HOSTILE, TURNED, HEBREW + "e" + ACUTE, ""]
    rows = {"a": [(text, png(50 * number), 40, 20) for number, text in enumerate(texts)],
            "b": [(None, png(7, 2000, 20), 2000, 20)] * 3, "empty": []}
    return write_corpus(tmp_path / "c", rows, REJECTED)


@pytest.fixture
def page(corpus, tmp_path, capsys) -> Page:
    assert run("describe", [str(corpus), "--html", str(tmp_path / "page.html")]) == 0
    assert re.search(r"page.html: the page, \d+ kB\n", capsys.readouterr().out)
    return Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_labels_cannot_become_markup_or_turn_the_page(page, tmp_path):
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.tags["script"] == page.tags["b"] - source.count("<b>") == 0
    assert "<b>no</b>" in page.section("rejects") and HOSTILE in page.section("images")
    assert "\u202e" not in source and "a U+202E b" in page.section("images")
    assert f'<bdi class="label">{HEBREW}e{ACUTE}</bdi>' in source
    assert "http" not in source


def test_every_image_is_in_the_page_and_decodes(page):
    pictures = page.pictures()
    # 5 + 3 on the contact sheets; one filtered; a/0 with its two duplicates, one of a row that is gone; one leaked
    assert len(pictures) == 5 + 3 + 1 + 3 + 1 + 1
    assert max(picture.shape[0] for picture in pictures) == 20
    assert [picture.shape for picture in pictures[5:8]] == [(11, 1080, 3)] * 3  # a long line whole, at a lower scale
    assert [(image["width"], image["height"]) for image in page.images[:8:5]] == [("96", "48"), ("540", "6")]


def test_the_account_is_exact_for_every_source(page):
    assert page.section("account") == (
        "Account source in = kept + duplicates + filtered + quarantined labeled "
        "a 13 5 3 2 3 ✓ exact 5 b 3 3 0 0 0 ✓ exact 0 empty 1 0 0 1 0 ✓ exact 0 all 17 8 3 3 3 ✓ exact 5 "
        "rejected as reason rows from "
        "duplicate near duplicate 2 a 2 duplicate exact duplicate 1 a 1 "
        "filtered side below 4 px 2 a 1, empty 1 filtered near a benchmark image 1 a 1 "
        "quarantined empty image 1 a 1 quarantined missing image 1 a 1 quarantined not an image 1 a 1 "
        "✓ quarantine.parquet holds 9 rows, as the account says.")


def test_the_head_says_what_it_is_and_how_it_was_made(page, corpus):
    head = " ".join(" ".join(page.words[:page.sections["account"]]).split())
    assert head.startswith("Corpus c Corpus c path ")  # the title, in the head and on the page
    for fact in (f"path {corpus}", "images 8, 5 of them labeled", "sources 3", "2 shards, 5 row groups",
                 f"manifest sha256 {Corpus.open(corpus).sha256}", "made by textray test", '"<here>"'):
        assert fact in head


def test_contact_sheets_show_label_and_size(page):
    shown = page.section("images")
    assert "a 5 of 5 images tea 40 × 20 <script>" in shown and "empty label 40 × 20" in shown
    assert "b 3 of 3 images no label 2000 × 20 no label" in shown and "empty" not in shown.removesuffix("empty label 40 × 20").split("b 3 of")[1]


def test_rejects_show_what_was_found_and_the_first_bytes_of_what_is_no_image(page):
    shown = page.section("rejects")
    assert "not an image quarantined, 1 row 9 bytes, the first: 3c 62 3e 6e 6f 3c 2f 62 3e <b>no</b> <script>" in shown
    assert "missing image quarantined, 1 row no image no label a/11" in shown
    assert "empty image quarantined, 1 row 0 bytes x a/12" in shown
    assert "side below 4 px filtered, 2 rows dot 30 x 2 a/13 no image no label 1 x 1 empty/1" in shown
    assert "duplicate " not in shown and "benchmark image " not in shown.split("follow below.")[1]


def test_duplicates_stand_beside_the_image_that_stayed(page, tmp_path):
    shown = page.section("duplicates")
    assert "3 images dropped, each nearly or exactly one of 2 that stayed." in shown
    assert "dropped per image that stayed such images 1 1 2 1 Largest" in shown
    assert ("exact duplicate: 1, near duplicate: 1 tea 40 × 20 a/0 tea exact duplicate a/14 "
            "TEA near duplicate distance 3 of 64 a/15") in shown
    assert "near duplicate: 1 not in the corpus: gone/7 no label near duplicate distance 1 of 64 a/16" in shown
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert source.count('<p class="bad"><bdi class="label">TEA</bdi></p>') == 1
    assert 'class="bad"><bdi class="label">tea' not in source


def test_leaked_images_name_the_benchmark_image(page):
    assert page.section("leakage").endswith(
        "near a benchmark image 1 row (a 1) LIVING is test/SVT/000000001 distance 2 of 64 a/17")


def test_characters_are_grouped_by_script_and_safe(page):
    shown = page.section("characters")
    assert "Hebrew 4 4 " in shown and "Control and unassigned 1 1 " in shown and "U+202E 1" in shown
    assert f"Combining marks 1 1 2.7 % \u25cc{ACUTE} 1" in shown
    assert "source different occurrences scripts a 22 37 Latin" in shown and shown.count("b 0 0") == 1


def test_charsets_count_the_labels_that_they_cannot_spell(page):
    shown = page.section("charset")
    assert "a 36 3 of 5 60.0 % 13" in shown and "94 2 of 5 40.0 % 6" in shown


def test_sizes_are_drawn_for_all_but_the_empty_source(page):
    shown = page.section("sizes")
    assert page.tags["svg"] == 5 + 4 + 5  # of a, of b without labels, of all
    assert "File sizes are from all images." in shown and "empty" not in shown
    assert "b 3 images width, px median 2,000, 2,000–2,000" in shown
    assert "label length none" in shown


def test_sections_of_which_there_is_nothing_are_left_out(tmp_path):
    corpus = write_corpus(tmp_path / "c", {"b": [(None, png(1), 40, 20)]}, [])
    assert run("describe", [str(corpus), "--html", str(tmp_path / "p.html"), "--images", "0"]) == 0
    page = Page((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert list(page.sections) == ["account", "sizes"] and page.images == []
    assert "Account Sizes and lengths Account source in" in page.text


@pytest.mark.parametrize(("texts", "charset", "said"), [
    (["tea", "42", "x1"], "36", "36 spells 100.0 % of the labels as they are written."),
    (["Tea", "42"], "62", "62 spells 100.0 % of the labels as they are written. The field's benchmarks are compared without case: for those 36 is enough."),
    (["Tea!", "42"], "94", "94 spells 100.0 %"),
    (["été"] * 2 + ["tea"] * 98, "aet\u00e9", "None of the named charsets spells 99 % of the labels; these are their own 4 characters."),
    (["été"] + ["tea"] * 99, "36", "36 spells 99.0 %"),
])
def test_a_charset_to_copy_is_recommended(tmp_path, texts, charset, said):
    """The smallest that spells 99 % of the labels as they are written, with room for their length."""
    corpus = write_corpus(tmp_path / "c", {"a": [(text, png(1), 40, 20) for text in texts]}, [])
    assert run("describe", [str(corpus), "--html", str(tmp_path / "p.html"), "--images", "0"]) == 0
    shown = Page((tmp_path / "p.html").read_text(encoding="utf-8")).section("charset")
    assert said in shown
    recipe = yaml.safe_load(re.search(r"recognizer:.*?options: {max_length: \d+}", (tmp_path / "p.html").read_text(encoding="utf-8"), re.DOTALL)[0].replace("&#34;", '"'))
    assert recipe == {"recognizer": {"charset": charset, "options": {"max_length": max(map(len, texts))}}}


@pytest.mark.parametrize("text", ['a"b\\', TURNED, HEBREW + "e" + ACUTE, "\U0001d49c \u00a0\u200b\U000e0100"])
def test_a_charset_to_copy_comes_back_from_yaml_as_it_was(text):
    assert yaml.safe_load(quoted(text)) == text and all(" " <= character and unicodedata.category(character)[0] not in "MC" for character in quoted(text))


def test_labels_that_contradict_each_other_stand_beside_each_other(tmp_path):
    """Exact duplicates with another label than the image that stayed, but for case and white space: one of the two is wrong."""
    rejected = [Rejected("a/7", "a", "duplicate", "exact duplicate", "", "N O14", png(1), "a/0"), Rejected("a/8", "a", "duplicate", "exact duplicate", "", "n014", png(1), "a/0"),
                Rejected("a/9", "a", "duplicate", "exact duplicate", "", None, png(1), "a/0"), Rejected("a/10", "a", "duplicate", "exact duplicate", "", "b", png(2), "a/1"),
                Rejected("a/11", "a", "duplicate", "exact duplicate", "", "x", png(3), "a/2")]
    corpus = write_corpus(tmp_path / "c", {"a": [("N014", png(1), 40, 20), ("b", png(2), 40, 20), (None, png(3), 40, 20)]}, rejected)
    found = gather_rejects(Corpus.open(corpus), 0).conflicts
    assert (found.images, found.kept) == (1, 1)
    assert [(each.kept.text, [one.text for one in each.members]) for each in found.clusters] == [("N014", ["N O14"])]
    assert run("describe", [str(corpus), "--html", str(tmp_path / "p.html")]) == 0
    shown = Page((tmp_path / "p.html").read_text(encoding="utf-8")).section("conflicts")
    assert "1 image came in once more, byte for byte, with another label than the one that stayed" in shown and "N014 40 × 20 a/0 N O14" in shown


def test_images_taller_than_wide_are_counted(tmp_path):
    corpus = write_corpus(tmp_path / "c", {"a": [("x", png(1, 10, 30), 10, 30), ("tea", png(2), 40, 20)]}, [])
    assert run("describe", [str(corpus), "--html", str(tmp_path / "p.html")]) == 0
    assert "1 image (50.0 %) are taller than wide" in Page((tmp_path / "p.html").read_text(encoding="utf-8")).section("sizes")


def test_the_images_of_a_large_corpus_are_sampled_and_the_page_says_so(tmp_path, monkeypatch):
    rows = {"a": [(str(number), png(number), 40, 20) for number in range(40)], "b": [("x", png(3), 40, 20)] * 4}
    corpus = write_corpus(tmp_path / "c", rows, [])
    monkeypatch.setattr(samples, "IMAGES_FOR", 22)
    monkeypatch.setattr(samples, "GROUPS_OF_A_SOURCE", 1)
    assert run("describe", [str(corpus), "--html", str(tmp_path / "p.html")]) == 0
    page = Page((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert "File sizes are from a sample of 11 of the 22 row groups; everything else from all rows." in page.section("sizes")
    assert "a 20 of 40 images" in page.section("images") and "b 2 of 4 images" in page.section("images")
    assert "all 44 images" in page.section("sizes")


def test_the_draw_is_spread_over_the_corpus_and_depends_on_the_seed_and_the_source_alone(tmp_path):
    rows = {"a": [(str(number), png(number % 200), 40, 20) for number in range(100)], "b": [("x", png(3), 40, 20)] * 9}
    corpus = Corpus.open(write_corpus(tmp_path / "c", rows, []))
    alone = Corpus.open(write_corpus(tmp_path / "d", {"a": rows["a"]}, []))

    def drawn(corpus, seed):
        sheets = ContactSheets(corpus, 8, seed)
        tally(corpus, sheets)
        return [int(one.text) for one in sheets.sheets["a"]]

    first = drawn(corpus, 0)
    assert len(set(first)) == 8 and first == sorted(first) and first[-1] > 50
    assert drawn(corpus, 0) == drawn(alone, 0) == first != drawn(corpus, 1)


def test_the_same_corpus_and_seed_give_the_same_page(corpus, tmp_path):
    pages = []
    for name, seed in (("one", "0"), ("two", "0"), ("three", "1")):
        assert run("describe", [str(corpus), "--html", str(tmp_path / name), "--images", "2", "--seed", seed]) == 0
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1] != pages[2]


def test_rows_are_found_by_key_reading_only_where_they_can_be(tmp_path, monkeypatch):
    rows = {"a": [(str(number), png(number), 40, 20) for number in range(8)], "b": [("x", png(3), 40, 20)]}
    corpus = Corpus.open(write_corpus(tmp_path / "c", rows, []))
    read = []
    original = Corpus.read_row_group
    monkeypatch.setattr(Corpus, "read_row_group",
                        lambda self, shard, index, columns=None: (read.append((shard, index)), original(self, shard, index, columns))[1])
    found = find_rows(corpus, ["a/5", "a/55", "b/0"])
    assert {key: one.text for key, one in found.items()} == {"a/5": "5", "b/0": "x"}
    assert set(read) == {("part-a-00000.parquet", 2), ("part-b-00000.parquet", 0)}


def test_large_groups_of_rejects_are_counted_whole_and_shown_in_part(tmp_path):
    rejected = [Rejected(f"a/d{number}", "a", "duplicate", "exact duplicate", "", "t", png(1), f"a/{number % 30}") for number in range(100)]
    rejected += [Rejected(f"a/e{number}", "a", "duplicate", "exact duplicate", "", "t", png(1), "a/29") for number in range(20)]
    rejected += [Rejected(f"a/q{number}", "a", "quarantined", "not an image", "", None, b"?") for number in range(50)]
    corpus = Corpus.open(write_corpus(tmp_path / "c", {"a": [("t", png(1), 40, 20)] * 30}, rejected))
    found = gather_rejects(corpus, 0)
    assert found.rows == 170 and found.cluster_sizes == {3: 19, 4: 10, 23: 1}
    assert [cluster.dropped for cluster in found.largest] == [23] + [4] * 9
    assert (found.largest[0].match, found.largest[0].kept.key, len(found.largest[0].members)) == ("a/29", "a/29", 8)
    assert len(found.others) == 10 and len({cluster.match for cluster in found.largest + found.others}) == 20
    assert all(cluster.kept.key == cluster.match for cluster in found.others)
    assert len(found.examples["quarantined", "not an image"]) == 12
    keys = [one.key for one in found.examples["quarantined", "not an image"]]
    assert keys != [f"a/q{number}" for number in range(12)]
    assert keys == [one.key for one in gather_rejects(corpus, 0).examples["quarantined", "not an image"]]


def test_a_missing_quarantine_table_is_bad_input(corpus, tmp_path, capsys):
    (corpus / "quarantine.parquet").unlink()
    assert run("describe", [str(corpus), "--html", str(tmp_path / "p.html")]) == 2
    assert "expected quarantine.parquet beside the shards, found none: copy the corpus again" in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


def test_characters_by_script():
    assert [script(character) for character in "aÉяαشி中々ア\uff71\uff211१。-$ \u00a0\u0301\u200b𝒜"] == [
        "Latin", "Latin", "Cyrillic", "Greek", "Arabic", "Tamil", "Han", "Han", "Katakana", "Katakana", "Latin", "Digits", "Devanagari",
        "Punctuation", "Punctuation", "Symbols", "Spaces", "Spaces", "Combining marks", "Control and unassigned", "Other letters"]


def test_characters_as_they_are_shown():
    assert [visible(character) for character in "a \u0301\u200f\t\u00a0\u05d0"] == [
        "a", "space", "\u25cc\u0301", "U+200F", "U+0009", "U+00A0", "\u05d0"]
    assert isolated("\u0301a\u0301 \u0301&") == '<bdi class="label">\u25cc\u0301a\u0301 \u25cc\u0301&amp;</bdi>'
    assert isolated("\u0995\u09cd\u200d\u09af") == '<bdi class="label">\u0995\u09cd\u200d\u09af</bdi>'  # a joiner between letters
    assert isolated("\u200d") == '<bdi class="label"><span class="code">U+200D</span></bdi>'


def titles(counts: Counter, axis: Axis) -> list[str]:
    return [bar.about for bar in Histogram.of(counts, axis, "lengths").bars]


def test_bars_hold_every_value_and_name_their_range():
    counts = Counter({0: 3, 5: 1, 40: 2})
    assert titles(counts, Axis.over(counts, whole=True, logarithmic=False)) == ["0: 3", "5: 1", "40: 2"]
    log = Axis.over([0, 3, 1000], whole=True, logarithmic=False)
    assert log.logarithmic and log.place(0.5) == 0 and log.place(1000.5) == 1
    assert titles(Counter({0: 7, 1000: 1}), log)[0] == "0 to 1: 7"
    assert titles(Counter({1: 7}), Axis.over([1, 1000], whole=True, logarithmic=True)) == ["1: 7"]
    assert all(edge % 1 == 0.5 for edge in log.edges)
    one = Axis.over([24], whole=True, logarithmic=True)
    assert titles(Counter({24: 400}), one) == ["24: 400"] and Histogram.of(Counter({24: 1}), one, "h").ticks[0].text == "24"
    ratio = Axis.over([0.1, 20.0], whole=False, logarithmic=True)
    assert ratio.ticks() == [0.1, 0.3, 1, 3, 10]
    assert Axis.over([], whole=True, logarithmic=True) is None
