"""Which rows of a corpus a stream uses, and how many there are."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from models.charset import Charset
from pipelines.corpus.reader import Corpus, RowGroup


@dataclass(frozen=True)
class Selection:
    """Which rows of a corpus a stream uses.

    Args:
        characters: the charset of a labeled stream: rows whose text is not there, or which `Charset.fault` says cannot be learned, are left
            out and counted. None for an unlabeled stream, which uses every row and no text.
        max_length: characters that the decoder can write.
        frames: in which a CTC decoder writes them; None for other decoders.
        fraction: share of the keys, drawn by a hash of (seed, key): the rows of 5 % are among those of 10 %.
        seed: of the draw.
        source: only this source of the corpus; None for all.
        ratios: only images whose width / height is above the first and at most the second; None for all.
    """

    characters: str | None
    max_length: int = 25
    frames: int | None = None
    fraction: float = 1.0
    seed: int = 0
    source: str | None = None
    ratios: tuple[float, float] | None = None

    @property
    def by_row(self) -> bool:
        """Whether single rows of a row group may be left out."""
        return self.characters is not None or self.fraction < 1.0 or self.ratios is not None

    @property
    def columns(self) -> list[str]:
        """What `mask` needs."""
        return ["key", "text"] if self.ratios is None else ["key", "text", "width", "height"]

    def mask(self, rows: pa.Table) -> tuple[np.ndarray, Counter]:
        """Which rows of the selection's source are used, (rows,) bool, and how many are not, by reason. Needs `columns`."""
        kept, reasons = np.ones(rows.num_rows, dtype=bool), Counter()
        if self.ratios is not None:
            ratios = rows["width"].to_numpy() / rows["height"].to_numpy()
            kept &= (ratios > self.ratios[0]) & (ratios <= self.ratios[1])
        if self.fraction < 1.0:
            kept &= np.fromiter((_share(self.seed, key) < self.fraction for key in rows["key"].to_pylist()), bool, rows.num_rows)
        if self.characters is not None:
            charset, texts = _charset(self.characters), rows["text"].to_pylist()
            for row in np.flatnonzero(kept).tolist():
                fault = "no label" if texts[row] is None else charset.fault(texts[row], self.max_length, self.frames)
                if fault is not None:
                    reasons[fault] += 1
                    kept[row] = False
        return kept, reasons


_charset = lru_cache(maxsize=4)(Charset)


def _share(seed: int, key: str) -> float:
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def usable_rows(corpus: Corpus, buckets: Sequence[Selection]) -> tuple[list[list[int]], Counter]:
    """For each bucket the usable rows of each row group, and how many rows are left out in all, by reason.

    The buckets differ in their ratios and frames only. Reads the columns that they need, in threads.
    """
    groups, wanted = corpus.row_groups, groups_of(corpus, buckets[0].source)
    if not buckets[0].by_row:
        return [[group.rows if take else 0 for group, take in zip(groups, wanted)]], Counter()

    def count(group: RowGroup) -> list[tuple[int, Counter]]:
        rows = corpus.read_row_group(group.shard, group.index, buckets[0].columns)
        return [(int(kept.sum()), reasons) for kept, reasons in (bucket.mask(rows) for bucket in buckets)]

    counts, left_out = [[0] * len(groups) for _ in buckets], Counter()
    chosen = [number for number, take in enumerate(wanted) if take]
    with ThreadPoolExecutor() as pool:
        for number, found in zip(chosen, pool.map(count, (groups[number] for number in chosen))):
            for bucket, (rows, reasons) in enumerate(found):
                counts[bucket][number] = rows
                left_out += reasons
    return counts, left_out


def groups_of(corpus: Corpus, source: str | None) -> list[bool]:
    """Whether each row group belongs to a source; None: all do."""
    return [source in (None, shard.source) for shard in corpus.manifest.shards for _ in shard.row_groups]
