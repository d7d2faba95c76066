"""The feed: a corpus becomes batches of a fixed size, in the plan's order, from any position."""

import shutil
from collections import Counter

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from models.charset import Charset
from pipelines.corpus.images import Shape
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import write_quarantine
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import SCHEMA, ShardWriter
from pipelines.errors import BadInput
from pipelines.feed import plan as plans
from pipelines.feed.batches import batches, threads_beside
from pipelines.feed.datasource import Readers, Rest, ray_blocks
from pipelines.feed.selection import Selection, usable_rows
from pipelines.feed.stream import Share, Stream, open_stream
from pipelines.feed.windows import local_blocks

ROWS = 230


def picture(number: int) -> bytes:
    """A PNG of one gray level, which names the row."""
    return cv2.imencode(".png", np.full((8, 20, 3), number, np.uint8))[1].tobytes()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """230 rows in two shards with row groups of 40; labels of every kind."""
    folder = tmp_path_factory.mktemp("corpus")
    labels = ["Word", "two words", "", None, "x" * 30]
    entries = []
    for index, (first, last) in enumerate([(0, 150), (150, ROWS)]):
        with ShardWriter(folder, "made", index, rows_per_group=40) as writer:
            for row in range(first, last):
                writer.write(key=f"made/{row:09d}", image=picture(row), text=labels[row % 10] if row % 10 < 5 else f"n{row}", width=20, height=8,
                             phash=0)
        entries.append(writer.entry)
    counts = SourceCounts(**{"in": ROWS, "kept": ROWS, "quarantined": 0, "filtered": 0, "labeled": ROWS - 23, "reasons": {}})
    write_quarantine(folder)
    write_manifest(folder, entries, {"made": counts}, {"command": "test"})
    return str(folder)


UNLABELED = Selection(None)
LABELED = Selection(Charset.named("36").characters)


def take(stream: Stream, share: Share, blocks=local_blocks, shape: Shape = Shape(4, 6)):
    charset = Charset.named("36") if stream.ingredients[0].selection.characters else None
    return list(batches(stream, share, blocks(stream, share), shape=shape, charset=charset))


def keys_of(parts) -> list[str]:
    return [key for part in parts for key in part.keys]


def test_a_batch_holds_resized_images_keys_and_normalised_texts(corpus):
    stream = open_stream([corpus], LABELED, batch_size=16, seed=1)
    part = take(stream, Share(0, 1, 0, 1))[0]
    assert part.images.shape == (16, 3, 4, 6) and part.images.dtype == torch.uint8
    numbers = [int(key.removeprefix("made/")) for key in part.keys]
    assert part.images[:, 0, 0, 0].tolist() == numbers  # each image is its own row's
    assert part.texts == ["word" if number % 10 == 0 else f"n{number}" for number in numbers]


def test_labels_that_cannot_be_learned_are_left_out_and_counted(corpus):
    (counts,), left_out = usable_rows(Corpus.open(corpus), [LABELED])
    assert left_out == {"characters outside the charset": 23, "empty label": 23, "no label": 23, "longer than 25 characters": 23}
    assert sum(counts) == ROWS - 4 * 23 and len(counts) == 6
    assert usable_rows(Corpus.open(corpus), [UNLABELED]) == ([[40, 40, 40, 30, 40, 40]], Counter())


def test_five_percent_of_the_labels_lie_within_ten(corpus):
    def keys(fraction, seed=7):
        stream = open_stream([corpus], Selection(None, fraction=fraction, seed=seed), batch_size=1, seed=0, lanes=1)
        return set(keys_of(take(stream, Share(0, 1, 0, stream.rows))))
    small, large = keys(0.05), keys(0.10)
    assert 0 < len(small) < len(large) < 60
    assert small < large
    assert keys(0.10, seed=8) != large


@pytest.mark.parametrize("small", [10**6, 0])
@pytest.mark.parametrize("lanes", [1, 2, 5, 10])  # each divides the 230 rows
def test_every_key_once_per_epoch_at_any_world_size_also_when_it_changes(corpus, monkeypatch, small, lanes):
    monkeypatch.setattr(plans, "SMALL", small)
    monkeypatch.setattr(plans, "WINDOW", 16)
    stream = open_stream([corpus], UNLABELED, batch_size=1, seed=3, lanes=lanes)
    alone = keys_of(take(stream, Share(0, 1, 0, 2 * ROWS)))
    assert len(set(alone[:ROWS])) == ROWS and len(set(alone[ROWS:])) == ROWS
    killed = [0, 37, 38, 125, 230, 301, 460]  # global batches; between them 2, 3, 1, 4, 2, 8 workers, whatever the number of lanes
    together = []
    for first, last, workers in zip(killed, killed[1:], (2, 3, 1, 4, 2, 8)):
        shares = [keys_of(take(stream, Share(rank, workers, first, last))) for rank in range(workers)]
        together += [shares[number % workers][number // workers] for number in range(last - first)]
    assert together == alone


def test_ray_gives_the_same_batches_from_any_position(corpus, ray_session, monkeypatch):
    stream = open_stream([corpus], LABELED, batch_size=7, seed=5, workers=2)
    expected = take(stream, Share(1, 2, 0, 180))
    found = take(stream, Share(1, 2, 80, 180), blocks=lambda stream, share: ray_blocks(stream, share, Readers(0.5, memory=2**10)))
    assert [part.keys for part in found] == [part.keys for part in expected[40:]]
    assert all(torch.equal(a.images, b.images) and a.texts == b.texts for a, b in zip(found, expected[40:]))


def test_rays_scheduler_rests_in_every_round(corpus, ray_session, monkeypatch):
    rests = []
    monkeypatch.setattr(Rest, "on_execution_step", lambda rest, executor: rests.append(executor))
    stream = open_stream([corpus], UNLABELED, batch_size=7, seed=0)
    assert sum(block.num_rows for block in ray_blocks(stream, Share(0, 1, 0, 40), Readers(0.5))) >= 280
    assert len(rests) > 0


def test_a_batch_larger_than_the_corpus_is_refused(corpus):
    with pytest.raises(BadInput, match=r"a batch of 100 images on each of 2 workers needs at least 200 rows, but .* has 230 rows, of which "
                                       r"138 can be used \(23 left out: characters outside the charset, 23 left out: empty label, "):
        open_stream([corpus], LABELED, batch_size=100, seed=0, workers=2)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Sources wide (60 rows of 60 x 10 pixels) and narrow (40 rows of 10 x 10), and one of 3 rows."""
    folder = tmp_path_factory.mktemp("other")
    entries, counts = [], {}
    for source, rows, width in (("wide", 60, 60), ("narrow", 40, 10), ("few", 3, 10)):
        data = cv2.imencode(".png", np.full((10, width, 3), 9, np.uint8))[1].tobytes()
        with ShardWriter(folder, source, 0, rows_per_group=25) as writer:
            for row in range(rows):
                writer.write(key=f"{source}/{row}", image=data, text="a", width=width, height=10, phash=0)
        entries.append(writer.entry)
        counts[source] = SourceCounts(rows_in=rows, kept=rows, labeled=rows)
    write_quarantine(folder)
    write_manifest(folder, entries, counts, {"command": "test"})
    return str(folder)


def test_sources_of_several_corpora_are_mixed_by_weight(corpus, other):
    stream = open_stream([corpus, other], UNLABELED, batch_size=10, seed=0, weights={"made": 0.3, "wide": 0.7})
    parts = take(stream, Share(0, 1, 0, 40))
    for part in parts:
        assert [sum(key.startswith(source) for key in part.keys) for source in ("made/", "wide/")] == [3, 7]
    assert stream.left_out == {"source without a weight": 43}
    assert Counter(key for key in keys_of(parts) if key.startswith("made/")).most_common(1)[0][1] == 1  # 120 of 230 rows: none twice
    united = open_stream([corpus, other], UNLABELED, batch_size=10, seed=0)
    assert united.rows == ROWS + 103 and united.paths == [corpus, other]


def test_weights_that_cannot_be_met_are_refused(corpus, other):
    with pytest.raises(BadInput, match="expected each source in one corpus, found 'wild' in 0; the sources are made, wide, narrow, few"):
        open_stream([corpus, other], UNLABELED, batch_size=10, seed=0, weights={"wild": 1})
    with pytest.raises(BadInput, match="the source few of .* has a weight, so it needs at least 8 usable rows, found 3; take"):
        open_stream([other], UNLABELED, batch_size=10, seed=0, weights={"few": 1})


def test_images_that_keep_their_ratio_come_in_batches_of_one_width(other):
    shape = Shape(10, 100, "keep")
    stream = open_stream([other], UNLABELED, batch_size=5, seed=0, widths=shape.buckets(), lanes=1)
    parts = take(stream, Share(0, 1, 0, 2 * 103 // 5), shape=shape)
    assert {part.images.shape for part in parts} == {(5, 3, 10, 20), (5, 3, 10, 80)}
    for part in parts:
        assert {key.startswith("wide/") for key in part.keys} == {part.images.shape[-1] == 80}
    assert len(set(keys_of(parts))) == 103


def test_a_bucket_too_small_for_a_batch_joins_the_next_wider_one(other):
    shape = Shape(10, 100, "keep")
    stream = open_stream([other], UNLABELED, batch_size=50, seed=0, widths=shape.buckets(), lanes=1)  # 43 narrow images, 60 wide
    assert [(ingredient.width, ingredient.plan.rows) for ingredient in stream.ingredients] == [(80, 103)]


def test_workers_share_the_cores_of_their_machine_for_decoding(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert [threads_beside(workers) for workers in (1, 4, 8, 16, 32)] == [4, 4, 2, 1, 1]


def test_many_small_corpora_that_are_mixed_are_each_read_once(tmp_path, monkeypatch):
    """Six sources in every batch: a reader that kept only four would read all of them again for each."""
    paths = []
    for source in range(6):
        folder = tmp_path / f"corpus{source}"
        folder.mkdir()
        with ShardWriter(folder, f"source{source}", 0, rows_per_group=10) as writer:
            for row in range(40):
                writer.write(key=f"source{source}/{row}", image=picture(row), text="word", width=20, height=8, phash=0)
        write_quarantine(folder)
        write_manifest(folder, [writer.entry], {f"source{source}": SourceCounts(rows_in=40, kept=40, labeled=40)}, {})
        paths.append(str(folder))
    stream = open_stream(paths, LABELED, batch_size=12, seed=1)
    read = Counter()
    real = Corpus.read_row_group
    monkeypatch.setattr(Corpus, "read_row_group", lambda self, shard, index, columns=None: read.update([(shard, index)]) or real(self, shard, index, columns))
    parts = take(stream, Share(0, 1, 0, 60))
    assert all(Counter(key.split("/")[0] for key in part.keys) == {f"source{source}": 2 for source in range(6)} for part in parts)
    assert len(read) == 6 * 4 and set(read.values()) == {1}


def test_a_flipped_bit_ends_the_feed_in_one_sentence_that_names_the_shard(corpus, tmp_path, ray_session):
    damaged = shutil.copytree(corpus, tmp_path / "damaged")
    shard = damaged / "part-made-00001.parquet"
    image = pq.read_metadata(shard).row_group(0).column(SCHEMA.names.index("image"))
    data = bytearray(shard.read_bytes())
    data[image.data_page_offset + image.total_compressed_size // 2] ^= 8
    shard.write_bytes(data)
    stream = open_stream([str(damaged)], LABELED, batch_size=16, seed=1)  # which counts labels, and reads no image
    for blocks in (local_blocks, lambda stream, share: ray_blocks(stream, share, Readers(0.5))):
        with pytest.raises(BadInput) as problem:
            take(stream, Share(0, 1, 0, 20), blocks)
        assert str(problem.value) == (
            f"{damaged}: expected the shard part-made-00001.parquet as it was written, found other bytes than were written: its sha256 differs: "
            f"copy it again from where it is whole, or ingest the sources again; `textray verify {damaged}` says what else is damaged")
