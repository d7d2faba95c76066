"""Planted duplicates are found, the earlier row stays, and nothing else goes."""

import zlib

import cv2
import lmdb
import numpy as np
import pytest

from changes import CHANGES, encoded
from pipelines.corpus.images import decode_gray
from pipelines.errors import BadInput
from pipelines.ingestion.duplicates import matches
from pipelines.ingestion.duplicates.hashes import GUARD_HASHES, Hashed, as_rows, hash_rows, hashed, label_hash, read_hashes, write_hashes
from pipelines.ingestion.duplicates.search import HashFile, find, near_entries
from pipelines.ingestion.duplicates.similarity import SAME, band_keys, similarities
from pipelines.ingestion.guard import hash_set
from pipelines.synthesis.corpus import Settings

WORDS = 100


def row(data: bytes, text: str | None = None) -> Hashed:
    return hashed(data, text, decode_gray(data))


@pytest.fixture(scope="module")
def words() -> list[tuple[bytes, str]]:
    """Drawn words: (encoded image, text), all different."""
    drawing = Settings(seed=3).synthesizer()
    return [drawing.render(3, number) for number in range(WORDS)]


@pytest.fixture(scope="module")
def images(words) -> list[np.ndarray]:
    return [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data, _ in words]


def stored(folder, *shards: list[Hashed], source: str = "s") -> list[HashFile]:
    files = []
    for index, rows in enumerate(shards):
        path = str(folder / f"{source}-{index}.hashes")
        write_hashes(path, hash_rows(rows))
        files.append(HashFile(source, index, path))
    return files


def dropped(files, guards=(), **options) -> list[tuple]:
    """(source, index, row, reason, what it matches) of every dropped row."""
    rows = [row for table in find(files, guards, **options) for row in table.to_pylist()]
    return [(row["source"], row["index"], row["row"], row["reason"],
             row["match_key"] or (row["match_source"], row["match_index"], row["match_row"])) for row in rows]


def rows_of(items: list[Hashed]):
    rows = as_rows(hash_rows(items))
    return rows.signature, rows.sizes


@pytest.mark.parametrize("change", CHANGES)
def test_of_each_change_nine_tenths_are_found(change, words, images):
    copies = [row(CHANGES[change](image)) for image in images]
    first, second = rows_of([row(data) for data, _ in words]), rows_of(copies)
    same = similarities(*first, *second) >= SAME
    keys, rows = zip(*(band_keys(data, *sizes.T) for data, sizes in (first, second)), strict=True)
    sets = [{(row, key) for row, key in zip(of.tolist(), some.tolist(), strict=True)} for some, of in zip(keys, rows, strict=True)]
    together = {row for row, _ in sets[0] & sets[1]}
    assert sum(bool(same[row]) and row in together for row in range(WORDS)) >= 0.9 * WORDS


def test_different_words_are_not_one_picture(words):
    data, sizes = rows_of([row(image) for image, _ in words])
    one, other = np.triu_indices(WORDS, 1)
    assert similarities(data[one], sizes[one], data[other], sizes[other]).max() < SAME


def test_the_same_picture_is_wholly_similar_to_itself(words):
    data, sizes = rows_of([row(image) for image, _ in words])
    np.testing.assert_allclose(similarities(data, sizes, data, sizes), 1, atol=1e-5)


def test_exact_and_near_copies_go_and_the_earlier_row_stays(ray_session, words, images, tmp_path):
    originals = [row(*word) for word in words[:20]]
    copies = [row(words[4][0]), row(CHANGES["JPEG quality 50"](images[7])), row(*words[50])]
    again = [row(CHANGES["size x 0.7"](images[50])), row(words[4][0], words[4][1])]
    files = stored(tmp_path, originals, copies) + stored(tmp_path, again, source="r")
    assert dropped(files) == [
        ("s", 1, 0, "exact duplicate", ("s", 0, 4)),
        ("s", 1, 1, "near duplicate", ("s", 0, 7)),
        ("r", 0, 0, "near duplicate", ("s", 1, 2)),
        ("r", 0, 1, "exact duplicate", ("s", 0, 4)),
    ]
    assert dropped(files, near=False) == [
        ("s", 1, 0, "exact duplicate", ("s", 0, 4)), ("r", 0, 1, "exact duplicate", ("s", 0, 4))]
    assert dropped(files[2:] + files[:2])[-1] == ("s", 1, 2, "near duplicate", ("r", 0, 0))  # the sources' order counts


def test_the_result_is_the_same_for_any_number_of_partitions_and_files(ray_session, words, images, tmp_path):
    rng = np.random.default_rng(0)
    changes = list(CHANGES.values())
    copies = [row(changes[rng.integers(len(changes))](images[rng.integers(40)])) for _ in range(120)]
    rows = [row(data) for data, _ in words] + copies
    files = stored(tmp_path, *(rows[start:start + 55] for start in range(0, len(rows), 55)))
    tables = [list(find(files, partitions=partitions)) for partitions in (1, 4)]
    assert tables[0] == tables[1]
    assert sum(map(len, tables[0])) >= 0.95 * len(copies)
    (tmp_path / "whole").mkdir()
    whole = dropped(stored(tmp_path / "whole", rows))
    assert [row for _, _, row, *_ in whole] == [55 * index + row for _, index, row, *_ in dropped(files)]


def test_what_a_row_matches_stays(ray_session, words, images, tmp_path):
    small = CHANGES["size x 0.5"](images[3])
    files = stored(tmp_path, [row(words[3][0]), row(small), row(CHANGES["size x 1.5"](images[3])), row(small)])
    found = dropped(files)
    assert [(row, match) for _, _, row, _, match in found] == [(row, ("s", 0, 0)) for row in (1, 2, 3)]
    assert found[2][3] == "near duplicate"  # the same bytes as row 1, which goes; of row 0 it is a near duplicate


def test_rows_with_different_labels_are_never_near_duplicates_but_exact_ones(ray_session, words, images, tmp_path):
    again = CHANGES["JPEG quality 90"](images[0])
    files = stored(tmp_path, [row(words[0][0], "Abc d"), row(again, "abcd"), row(again, "abce"), row(words[0][0], "abcx")])
    # Row 2 has the bytes of row 1, which goes: what it is a duplicate of, in the end, is row 0.
    assert [found[2:4] for found in dropped(files)] == [(1, "near duplicate"), (2, "near duplicate"), (3, "exact duplicate")]
    files = stored(tmp_path, [row(words[0][0], "Abcd"), row(again, "abce")])
    assert dropped(files) == []


def test_labels_are_compared_without_case_and_white_space():
    assert label_hash("STRASSE 1") == label_hash("straße1") != label_hash("strasse2")
    assert label_hash(None) == label_hash(" ") == 0


def test_blank_pictures_are_exact_duplicates_only(ray_session, tmp_path):
    white, grey = np.full((32, 100, 3), 255, np.uint8), np.full((32, 100, 3), 128, np.uint8)
    rows = [row(encoded(white)), row(encoded(grey)), row(encoded(white, 50)), row(encoded(white))]
    assert all(row.signature.blank for row in rows)
    assert dropped(stored(tmp_path, rows)) == [("s", 0, 3, "exact duplicate", ("s", 0, 0))]


def lmdb_of(folder, images: list[bytes]) -> str:
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for number, image in enumerate(images, start=1):
            transaction.put(b"image-%09d" % number, image)
        transaction.put(b"num-samples", b"%d" % len(images))
    return str(folder)


def test_guards_are_named_by_set_and_key(ray_session, words, images, tmp_path):
    benchmark = hash_set([f"bench={lmdb_of(tmp_path / 'test', [words[1][0], words[2][0], b'no image'])}"])
    assert benchmark["key"].to_pylist() == ["bench:bench/000000001", "bench:bench/000000002"]
    rows = [row(words[0][0]), row(words[2][0]), row(CHANGES["2 % cut off the left"](images[1])), row(words[0][0])]
    expected = [("s", 0, 1, "benchmark image", "bench:bench/000000002"),
                ("s", 0, 2, "near a benchmark image", "bench:bench/000000001")]
    files = stored(tmp_path, rows)
    assert dropped(files, [benchmark]) == [*expected, ("s", 0, 3, "exact duplicate", ("s", 0, 0))]
    assert dropped(files, [benchmark], exact=False, near=False) == expected


def test_a_guard_is_found_whatever_the_label(ray_session, words, images, tmp_path):
    benchmark = hash_rows([row(words[1][0], "one")]).append_column(GUARD_HASHES.field("key"), [["bench:1"]])
    files = stored(tmp_path, [row(CHANGES["JPEG quality 90"](images[1]), "other")])
    assert dropped(files, [benchmark]) == [("s", 0, 0, "near a benchmark image", "bench:1")]


def test_a_guard_that_cannot_be_decoded_guards_nothing(tmp_path):
    with pytest.raises(BadInput, match="expected images to guard, found none that can be decoded"):
        hash_set([lmdb_of(tmp_path / "broken", [b"no image"])])


def test_nothing_to_compare_gives_nothing(ray_session, tmp_path):
    assert dropped([]) == []
    assert dropped(stored(tmp_path, [], [])) == []


def test_twenty_thousand_copies_of_one_picture_are_compared_with_few(words, images):
    count, again = 20_000, [row(CHANGES[change](images[5])).signature for change in CHANGES]
    chosen = [again[number % len(again)] for number in range(count)]
    rows = as_rows(hash_rows([Hashed(b"%d" % number, None, one) for number, one in enumerate(chosen)]))
    entries = near_entries(rows, slice(0, count), np.arange(count))
    pairs = matches.candidates(entries, among=True)
    assert len(pairs) <= matches.TRIES * count
    assert set(range(len(again), count)) <= set(pairs["later"].tolist())  # each has an earlier one to be compared with


def test_hashes_survive_their_file(words, tmp_path):
    table = hash_rows([row(*word) for word in words[:5]], first=10)
    write_hashes(str(tmp_path / "x"), table)
    assert read_hashes(str(tmp_path / "x")) == table
    assert table["row"].to_pylist() == [10, 11, 12, 13, 14]
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_png_with_a_gamma_is_recognised_in_its_jpeg(images):
    plain = cv2.imencode(".png", images[8])[1].tobytes()
    chunk = b"gAMA" + (30_000).to_bytes(4, "big")
    with_gamma = plain[:33] + (4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + plain[33:]
    assert row(with_gamma).signature == row(plain).signature
