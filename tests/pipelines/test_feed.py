"""The feed: a corpus becomes batches of a fixed size, in the plan's order, from any position."""

from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from models.charset import Charset
from pipelines import plan as plans
from pipelines.corpus import Corpus, ShardWriter, SourceCounts, write_manifest, write_quarantine
from pipelines.errors import BadInput
from pipelines.feed import batches, ray_blocks
from pipelines.stream import Selection, Share, Stream, local_blocks, usable_rows

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


def take(stream: Stream, rank: int, workers: int, first: int, last: int, blocks=local_blocks):
    share = Share(rank, workers, first, last)
    charset = Charset.named("36") if stream.selection.characters else None
    return list(batches(stream, share, blocks(stream, share), height=4, width=6, charset=charset))


def test_a_batch_holds_resized_images_keys_and_normalised_texts(corpus):
    stream = Stream.open(corpus, LABELED, batch_size=16, seed=1)
    part = take(stream, 0, 1, 0, 1)[0]
    assert part.images.shape == (16, 3, 4, 6) and part.images.dtype == torch.uint8
    numbers = [int(key.removeprefix("made/")) for key in part.keys]
    assert part.images[:, 0, 0, 0].tolist() == numbers  # each image is its own row's
    assert part.texts == ["word" if number % 10 == 0 else f"n{number}" for number in numbers]


def test_labels_that_cannot_be_learned_are_left_out_and_counted(corpus):
    counts, left_out = usable_rows(Corpus.open(corpus), LABELED)
    assert left_out == {"characters outside the charset": 23, "empty label": 23, "no label": 23, "longer than 25 characters": 23}
    assert sum(counts) == ROWS - 4 * 23 and len(counts) == 6
    assert usable_rows(Corpus.open(corpus), UNLABELED) == ([40, 40, 40, 30, 40, 40], Counter())


def test_five_percent_of_the_labels_lie_within_ten(corpus):
    def keys(fraction, seed=7):
        stream = Stream.open(corpus, Selection(None, fraction=fraction, seed=seed), batch_size=1, seed=0)
        parts = take(stream, 0, 1, 0, stream.plan.rows)
        return {key for part in parts for key in part.keys}
    small, large = keys(0.05), keys(0.10)
    assert 0 < len(small) < len(large) < 60
    assert small < large
    assert keys(0.10, seed=8) != large


@pytest.mark.parametrize("small", [10**6, 0])
def test_every_key_once_per_epoch_at_any_world_size(corpus, monkeypatch, small):
    monkeypatch.setattr(plans, "SMALL", small)
    monkeypatch.setattr(plans, "WINDOW", 16)
    stream = Stream.open(corpus, UNLABELED, batch_size=1, seed=3, workers=2)
    alone = [part.keys[0] for part in take(stream, 0, 1, 0, 8 * 28)]  # 28 rows of each of the 8 lanes, of which they hold 28 or 29
    assert len(set(alone)) == len(alone)
    shares = [take(stream, rank, 2, 0, 4 * 28) for rank in range(2)]
    assert [shares[g % 2][g // 2].keys[0] for g in range(8 * 28)] == alone


def test_ray_gives_the_same_batches_from_any_position(corpus, ray_session, monkeypatch):
    stream = Stream.open(corpus, LABELED, batch_size=7, seed=5, workers=2)
    expected = take(stream, 1, 2, 0, 90)
    found = take(stream, 1, 2, 40, 90, blocks=lambda stream, share: ray_blocks(stream, share, reader_cpus=0.5))
    assert [part.keys for part in found] == [part.keys for part in expected[40:]]
    assert all(torch.equal(a.images, b.images) and a.texts == b.texts for a, b in zip(found, expected[40:]))


def test_a_batch_larger_than_the_corpus_is_refused(corpus):
    with pytest.raises(BadInput, match=r"a batch of 100 images on each of 2 workers needs at least 200 rows, but .* has 230 rows, of which "
                                       r"138 can be used \(23 left out: no label, "):
        Stream.open(corpus, LABELED, batch_size=100, seed=0, workers=2)
