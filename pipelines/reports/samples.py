"""The rows of a corpus that its page shows: drawn by seed, gathered in a few passes, only their pictures held."""

import hashlib
import heapq
import random
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.corpus.quarantine import QUARANTINE, QUARANTINE_SCHEMA
from pipelines.corpus.reader import Corpus, RowGroup
from pipelines.corpus.shards import checked_parquet
from pipelines.corpus.storage import join
from pipelines.errors import BadInput
from pipelines.ingestion.duplicates.hashes import label_hash
from pipelines.ingestion.wordsets import open_sets
from pipelines.progress import Progress
from pipelines.reports.html import Thumbnail, fitted

IMAGES_FOR = 2_000_000  # rows; of the images of a larger corpus only a sample of row groups is read
GROUPS_OF_A_SOURCE = 20  # at least, in that sample
HEAD = 24  # bytes shown of what cannot be decoded
REJECTS_SHOWN = 12  # of each reason
LEAKS_SHOWN = 240  # of each reason
LARGEST, RANDOM = 10, 10  # clusters of duplicates shown
MEMBERS_SHOWN = 8  # of each cluster
CONFLICTS_FOR = 1_000_000  # exact duplicates with labels; of more the first are compared with what stayed
CONFLICTS_SHOWN = 20
BATCH, BATCH_OF_IMAGES = 8192, 64  # rows of quarantine.parquet in memory
WIDEST, HIGHEST = 1080, 96  # pixels of a picture in the page


@dataclass(frozen=True)
class Shown:
    """One image on the page."""

    key: str
    source: str
    text: str | None
    picture: Thumbnail | None  # None: it cannot be decoded
    size: tuple[int, int] | None = None  # width and height in pixels of a corpus row
    bytes: int | None = None  # of the encoded image; None if there are none
    head: bytes = b""  # the first of them
    reason: str = ""
    detail: str = ""
    match: str | None = None


@dataclass
class Cluster:
    """Duplicates of one image that stayed."""

    match: str  # its key
    kept: Shown | None = None  # None: no such row in the corpus
    dropped: int = 0
    reasons: Counter = field(default_factory=Counter)
    members: list[Shown] = field(default_factory=list)


@dataclass
class Conflicts:
    """Exact duplicates whose labels contradict that of the image that stayed, but for case and white space."""

    images: int = 0  # dropped with another label
    kept: int = 0  # images that stayed of which there is one
    looked_at: int = 0  # exact duplicates with labels, at most CONFLICTS_FOR
    clusters: list[Cluster] = field(default_factory=list)  # some of them, with the dropped images that differ alone


@dataclass
class Rejects:
    """What quarantine.parquet holds: counts of everything, and examples."""

    rows: int = 0
    counts: dict[tuple[str, str], Counter] = field(default_factory=lambda: defaultdict(Counter))  # (kind, reason) -> source -> rows
    examples: dict[tuple[str, str], list[Shown]] = field(default_factory=dict)  # without duplicates and leaks
    leaks: dict[str, list[Shown]] = field(default_factory=dict)  # reason -> those with a benchmark's match
    leaked: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))  # reason -> source -> rows
    cluster_sizes: Counter = field(default_factory=Counter)  # dropped images of one that stayed -> clusters
    largest: list[Cluster] = field(default_factory=list)
    others: list[Cluster] = field(default_factory=list)
    conflicts: Conflicts = field(default_factory=Conflicts)


class ContactSheets:
    """Draws `images` rows of every source, evenly from the row groups whose images are read (all, if they are not too many)."""

    def __init__(self, corpus: Corpus, images: int, seed: int):
        groups: dict[str, list[RowGroup]] = {name: [] for name in corpus.manifest.sources}
        for shard in corpus.manifest.shards:
            groups[shard.source] += [RowGroup(shard.name, index, rows) for index, rows in enumerate(shard.row_groups)]
        self.sheets: dict[str, list[Shown]] = {name: [] for name in groups}
        self._source: dict[tuple[str, int], str] = {}
        self._wanted: dict[tuple[str, int], list[int]] = {}
        for name, all_groups in groups.items():
            drawn = random.Random(f"{seed} {name}")  # a generator of its own: other sources do not change the draw
            read = _sample(all_groups, corpus.rows, drawn)
            self._source |= {(group.shard, group.index): name for group in read}
            rows = sum(group.rows for group in read)
            self._place(read, sorted(drawn.sample(range(rows), min(images, rows))))
        self.groups_read, self.groups = len(self._source), sum(map(len, groups.values()))

    def _place(self, groups: list[RowGroup], positions: list[int]) -> None:
        starts = np.cumsum([0, *(group.rows for group in groups)])
        for position in positions:
            index = int(np.searchsorted(starts, position, side="right")) - 1
            self._wanted.setdefault((groups[index].shard, groups[index].index), []).append(position - int(starts[index]))

    def wants(self, group: RowGroup) -> bool:
        """Whether the images of this row group are read."""
        return (group.shard, group.index) in self._source

    def visit(self, group: RowGroup, table: pa.Table) -> None:
        """Take the rows drawn from this row group."""
        rows = table.take(pa.array(self._wanted.get((group.shard, group.index), []), pa.int64())).to_pylist()
        source = self._source[group.shard, group.index]
        self.sheets[source] += [corpus_row(row, source) for row in rows]


def _sample(groups: list[RowGroup], corpus_rows: int, drawn: random.Random) -> list[RowGroup]:
    """All row groups of a source, or as many of them, in order, as make IMAGES_FOR rows of the whole corpus."""
    if corpus_rows <= IMAGES_FOR:
        return groups
    number = max(GROUPS_OF_A_SOURCE, round(len(groups) * IMAGES_FOR / corpus_rows))
    return [groups[index] for index in sorted(drawn.sample(range(len(groups)), min(number, len(groups))))]


def corpus_row(row: dict, source: str) -> Shown:
    """A row of the corpus with its picture."""
    return Shown(row["key"], source, row["text"], fitted(row["image"], WIDEST, HIGHEST), (row["width"], row["height"]),
                 len(row["image"]), row["image"][:HEAD])


def find_rows(corpus: Corpus, keys: Iterable[str]) -> dict[str, Shown]:
    """The rows with these keys that are in the corpus. Reads only row groups whose least and greatest key enclose one."""
    missing, found = sorted(set(keys)), {}
    for shard in corpus.manifest.shards:
        if not missing:
            break
        for index in _may_hold(corpus, shard.name, missing):
            present = set(missing).intersection(corpus.read_row_group(shard.name, index, ["key"])["key"].to_pylist())
            if present:
                table = corpus.read_row_group(shard.name, index, ["key", "image", "text", "width", "height"])
                rows = table.filter(pc.is_in(table["key"], pa.array(sorted(present)))).to_pylist()
                found |= {row["key"]: corpus_row(row, shard.source) for row in rows}
                missing = [key for key in missing if key not in found]
    return found


def find_texts(corpus: Corpus, keys: Iterable[str]) -> dict[str, str | None]:
    """The labels of the rows with these keys. Reads keys and labels only, of row groups that may hold one."""
    wanted, found = sorted(set(keys)), {}
    among = pa.array(wanted, pa.string())
    for shard in corpus.manifest.shards if wanted else ():
        for index in _may_hold(corpus, shard.name, wanted):
            table = corpus.read_row_group(shard.name, index, ["key", "text"])
            rows = table.filter(pc.is_in(table["key"], among))
            found |= dict(zip(rows["key"].to_pylist(), rows["text"].to_pylist(), strict=True))
    return found


def _may_hold(corpus: Corpus, shard: str, keys: list[str]) -> list[int]:
    footer = corpus.footer(shard)
    column = footer.schema.names.index("key")
    candidates = []
    for index in range(footer.num_row_groups):
        statistics = footer.row_group(index).column(column).statistics
        if statistics is None or not statistics.has_min_max or _any_between(keys, statistics.min, statistics.max):
            candidates.append(index)
    return candidates


def _any_between(keys: list[str], low: str, high: str) -> bool:
    """Whether one of the ascending keys lies there."""
    place = bisect_left(keys, low)
    return place < len(keys) and keys[place] <= high


def gather_rejects(corpus: Corpus, seed: int) -> Rejects:
    """Read quarantine.parquet: once without images, then only the row groups with something to show.

    Memory holds the pictures to show and 8 bytes for each duplicate. Raises BadInput if the file is missing.
    """
    try:
        with checked_parquet(join(corpus.path, QUARANTINE)) as parquet:
            return _Gathering(corpus, parquet, seed).run()
    except FileNotFoundError:
        raise BadInput(f"{corpus.path}: expected {QUARANTINE} beside the shards, found none: copy the corpus again, "
                       "or ingest it again") from None


class _Draw:
    """The k rows with the lowest hashes of their keys: a uniform draw from a stream that does not depend on its order."""

    def __init__(self, size: int):
        self._size = size
        self._heap: list[tuple] = []  # the highest of the lowest first

    def offer(self, rank: int, address: tuple[int, int], row: dict) -> None:
        """Take the row if it is among the lowest so far."""
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, (-rank, address, row))
        elif -rank > self._heap[0][0]:
            heapq.heapreplace(self._heap, (-rank, address, row))

    def rows(self) -> list[tuple[tuple[int, int], dict]]:
        """(address, row) pairs in the order of the file."""
        return sorted(((address, row) for _, address, row in self._heap), key=lambda pair: pair[0])


class _Gathering:
    """The passes over quarantine.parquet. An address is (row group, row)."""

    def __init__(self, corpus: Corpus, parquet: pq.ParquetFile, seed: int):
        self.corpus, self.parquet, self.seed = corpus, parquet, seed
        self.rejects = Rejects()
        self._exact: list[tuple[tuple[int, int], str, int]] = []  # of exact duplicates with labels: address, match, and hash of the label

    def run(self) -> Rejects:
        rejects = self.rejects
        examples, leaks, hashes = self._count()
        clusters, members = self._choose(hashes)
        contradicted = self._contradicted()
        wanted = [pair for draw in (*examples.values(), *leaks.values()) for pair in draw.rows()] + members + [
            pair for pairs in contradicted.values() for pair in pairs]
        pictures = self._pictures(address for address, _ in wanted)
        rejects.examples = {reason: [pictures[address](row) for address, row in draw.rows()] for reason, draw in examples.items()}
        rejects.leaks = {reason: [pictures[address](row) for address, row in draw.rows()] for reason, draw in leaks.items()}
        kept = find_rows(self.corpus, [*(cluster.match for cluster in clusters.values()), *contradicted])
        rejects.conflicts.clusters = [Cluster(match, kept.get(match), len(pairs), Counter(row["reason"] for _, row in pairs),
                                              [pictures[address](row) for address, row in pairs[:MEMBERS_SHOWN]]) for match, pairs in contradicted.items()]
        for address, row in members:
            clusters[self._hash(row["match"])].members.append(pictures[address](row))
        for cluster in clusters.values():
            cluster.kept = kept.get(cluster.match)
        return rejects

    def _contradicted(self) -> dict[str, list[tuple[tuple[int, int], dict]]]:
        """Count the exact duplicates with another label than the image that stayed; some of these by its key."""
        stayed = {key: label_hash(text) for key, text in find_texts(self.corpus, {match for _, match, _ in self._exact}).items() if text is not None}
        places: dict[str, list[tuple[int, int]]] = {}
        for address, match, label in self._exact:
            if match in stayed and stayed[match] != label:
                places.setdefault(match, []).append(address)
        conflicts = self.rejects.conflicts
        conflicts.images, conflicts.kept, conflicts.looked_at = sum(map(len, places.values())), len(places), len(self._exact)
        self._exact = []
        shown = {address for match in list(places)[:CONFLICTS_SHOWN] for address in places[match][:MEMBERS_SHOWN]}
        found: dict[str, list[tuple[tuple[int, int], dict]]] = {}
        for address, row in self._rows(["key", "source", "kind", "reason", "detail", "text", "match"], sorted({group for group, _ in shown})):
            if address in shown:
                found.setdefault(row["match"], []).append((address, row))
        return found

    def _hash(self, key: str) -> int:
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, salt=str(self.seed).encode()[:16]).digest(), "big")

    def _rows(self, columns: list[str], groups: Iterable[int]) -> Iterator[tuple[tuple[int, int], dict]]:
        for group in groups:
            at = 0
            size = BATCH_OF_IMAGES if "image" in columns else BATCH
            for batch in self.parquet.iter_batches(size, row_groups=[group], columns=columns):
                for row in batch.to_pylist():
                    yield (group, at), row
                    at += 1

    def _count(self) -> tuple[dict[tuple[str, str], _Draw], dict[str, _Draw], np.ndarray]:
        """Everything but images: counts, the examples' rows, and the hash of every duplicate's match."""
        rejects, examples, leaks, hashes = self.rejects, {}, {}, array("Q")
        columns = [name for name in QUARANTINE_SCHEMA.names if name != "image"]
        progress = Progress("describe", self.parquet.metadata.num_rows, "rejected rows")
        for address, row in self._rows(columns, range(self.parquet.num_row_groups)):
            progress.add(1)
            kind, reason, match = row["kind"], row["reason"], row["match"]
            rejects.rows += 1
            rejects.counts[kind, reason][row["source"]] += 1
            if kind == "duplicate" and match is not None:
                hashes.append(self._hash(match))
                if reason == "exact duplicate" and row["text"] is not None and len(self._exact) < CONFLICTS_FOR:
                    self._exact.append((address, match, label_hash(row["text"])))
            elif kind == "filtered" and match is not None:
                rejects.leaked[reason][row["source"]] += 1
                leaks.setdefault(reason, _Draw(LEAKS_SHOWN)).offer(self._hash(row["key"]), address, row)
            else:
                examples.setdefault((kind, reason), _Draw(REJECTS_SHOWN)).offer(self._hash(row["key"]), address, row)
        progress.close()
        return examples, leaks, np.frombuffer(hashes, np.uint64)

    def _choose(self, hashes: np.ndarray) -> tuple[dict[int, Cluster], list[tuple[tuple[int, int], dict]]]:
        """The clusters to show by the hash of their match, and the rows of their members."""
        values, sizes = np.unique(hashes, return_counts=True)  # ascending: the others are drawn by their hash
        self.rejects.cluster_sizes = Counter(sizes.tolist())
        largest = np.lexsort((values, -sizes))[:LARGEST].tolist()
        others = [index for index in range(min(len(values), LARGEST + RANDOM)) if index not in largest][:RANDOM]
        clusters = {int(values[index]): Cluster("") for index in largest + others}
        members = []
        for address, row in self._rows(["key", "source", "kind", "reason", "detail", "text", "match"],
                                       range(self.parquet.num_row_groups) if clusters else ()):
            cluster = clusters.get(self._hash(row["match"])) if row["kind"] == "duplicate" and row["match"] is not None else None
            if cluster is not None:
                cluster.match = row["match"]
                cluster.dropped += 1
                cluster.reasons[row["reason"]] += 1
                if cluster.dropped <= MEMBERS_SHOWN:
                    members.append((address, row))
        self.rejects.largest = [clusters[int(values[index])] for index in largest]
        self.rejects.others = [clusters[int(values[index])] for index in others]
        return clusters, members

    def _pictures(self, addresses: Iterable[tuple[int, int]]) -> dict:
        """For each address a function that makes its row a Shown; the image itself is not held."""
        groups: dict[int, set[int]] = defaultdict(set)
        for group, row in addresses:
            groups[group].add(row)
        found = {}
        for group in sorted(groups):
            for address, row in self._rows(["image"], [group]):
                if address[1] in groups[group]:
                    found[address] = _finisher(row["image"])
        return found


def _finisher(image: bytes | None):
    picture, length, head = fitted(image, WIDEST, HIGHEST), None if image is None else len(image), (image or b"")[:HEAD]
    return lambda row: Shown(row["key"], row["source"], row["text"], picture, None, length, head, row["reason"], row["detail"],
                             row["match"])


def benchmark_pictures(sets: Sequence[str], keys: set[str]) -> dict[str, Shown]:
    """The images of benchmarks (PATH or NAME=PATH each) with the given keys, SET:KEY as `hashes.hash_set` writes them.

    Raises BadInput if a benchmark cannot be opened.
    """
    found = {}
    for words in open_sets(list(sets)):
        for key, image, text in words.read():
            name = f"{words.name}:{key}"
            if name in keys and image is not None:
                found[name] = _finisher(image)({"key": name, "source": words.name, "text": text, "reason": "", "detail": "", "match": None})
    return found
