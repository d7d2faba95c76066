"""Whether a corpus is, byte for byte and row for row, what was written."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus import storage
from pipelines.corpus.account import counted
from pipelines.corpus.images import decode_gray, image_problem
from pipelines.corpus.manifest import MANIFEST, ShardEntry, SourceCounts
from pipelines.corpus.quarantine import KINDS, QUARANTINE, QUARANTINE_SCHEMA
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import Damaged
from pipelines.errors import BadInput
from pipelines.progress import Progress

KEYS_AT_ONCE = 1 << 24  # whose hashes are in memory, 128 MB; a larger corpus has its keys read several times
SHOWN = 3  # keys, as examples
SUSPECTS = 1000  # hashes that come twice, of which the keys are looked up


@dataclass
class Findings:
    """What was looked at: what of it is whole, and what is damaged, a sentence each."""

    what: str  # what it is: "corpus"
    whole: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


class Looked(NamedTuple):
    """A shard, what is wrong with it, and how many of its rows have a label."""

    shard: ShardEntry
    problems: list[str]
    labeled: int


def verify_corpus(path: str, images: bool = False) -> Findings:
    """Read every byte of the corpus at a path or URI, and compare: sha256, counts, row groups, sources, labels, keys.

    Memory holds a few row groups and the hashes of KEYS_AT_ONCE keys, whatever the size of the corpus.

    Args:
        images: decode each of them too.

    Raises:
        BadInput: there is no corpus, or its store cannot be reached.
    """
    findings = Findings("corpus")
    try:
        corpus = Corpus.listed(path)
    except BadInput as problem:
        if storage.kind(storage.join(path, MANIFEST)) != "file":
            raise
        findings.damaged.append(str(problem))
        return findings
    looked = _look_at_shards(corpus, images)
    whole = [each.shard for each in looked if not each.problems]
    findings.whole.append(f"{MANIFEST} and {len(whole):,} of {counted(len(looked), 'shard')} with {sum(shard.rows for shard in whole):,} rows, "
                          f"{sum(shard.bytes for shard in whole) / 1e6:,.1f} MB")
    findings.damaged += [problem for each in looked for problem in each.problems]
    findings.damaged += [*_wrong_labels(corpus, looked), *_repeated_keys(corpus, whole)]
    _verify_quarantine(corpus, findings)
    return findings


def _look_at_shards(corpus: Corpus, images: bool) -> list[Looked]:
    shards, looked = corpus.manifest.shards, []
    progress = Progress("verify", sum(shard.bytes for shard in shards) // 10**6, "MB")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for each in pool.map(lambda shard: _look_at(corpus, shard, images), shards):
            looked.append(each)
            progress.add(sum(done.shard.bytes for done in looked) // 10**6 - progress.done)
    progress.close()
    return looked


def _look_at(corpus: Corpus, shard: ShardEntry, images: bool) -> Looked:
    labeled, foreign, bad = 0, 0, []
    try:
        corpus.check_shard(shard)
        groups = corpus.footer(shard.name).num_row_groups
        if groups != len(shard.row_groups):
            return Looked(shard, [f"{shard.name}: expected {counted(len(shard.row_groups), 'row group')}, found {groups}"], 0)
        for index in range(groups):
            rows = corpus.read_row_group(shard.name, index, ["key", "text", "source", *(["image"] if images else [])])
            labeled += len(rows) - rows["text"].null_count
            foreign += pc.sum(pc.not_equal(rows["source"], shard.source)).as_py()
            bad += _undecodable(rows) if images else []
    except Damaged as problem:
        return Looked(shard, [str(problem)], 0)
    problems = []
    if foreign:
        problems.append(f"{shard.name}: expected rows of the source {shard.source}, found {counted(foreign, 'row')} of others")
    if bad:
        problems.append(f"{shard.name}: expected images that can be decoded, found {len(bad):,} that cannot, as {', '.join(bad[:SHOWN])}")
    return Looked(shard, problems, labeled)


def _undecodable(rows: pa.Table) -> list[str]:
    """The keys of the images that cannot be decoded, with the reason."""
    problems = (image_problem(image.as_py(), decode_gray(image.as_py())) for image in rows["image"])
    return [f"{key} ({problem})" for key, problem in zip(rows["key"].to_pylist(), problems) if problem is not None]


def _wrong_labels(corpus: Corpus, looked: list[Looked]) -> Iterator[str]:
    """A sentence for each source whose shards are whole and hold another number of labels than the manifest says."""
    labeled, broken = Counter(), {each.shard.source for each in looked if each.problems}
    for each in looked:
        labeled[each.shard.source] += each.labeled
    for name, counts in corpus.manifest.sources.items():
        if name not in broken and counts.labeled != labeled[name]:
            yield f"{MANIFEST}: expected {counts.labeled:,} labeled rows of the source {name}, found {labeled[name]:,}"


def _repeated_keys(corpus: Corpus, shards: list[ShardEntry]) -> Iterator[str]:
    """A sentence if keys come twice in whole shards."""
    parts = -(-sum(shard.rows for shard in shards) // KEYS_AT_ONCE)
    suspects = np.concatenate([np.empty(0, np.uint64), *(_twice(corpus, shards, part, parts) for part in range(parts))])
    if len(suspects):
        counts = Counter(key for keys in _keys(corpus, shards) for key in keys[np.isin(_hashes(keys), suspects[:SUSPECTS])])
        repeated = [key for key, count in counts.items() if count > 1]  # two keys may have one hash
        if repeated:
            more = " or more" if len(suspects) > SUSPECTS else ""
            yield f"expected keys that are unique in the corpus, found {len(repeated):,}{more} that come twice, as {', '.join(repeated[:SHOWN])}"


def _twice(corpus: Corpus, shards: list[ShardEntry], part: int, parts: int) -> np.ndarray:
    """The hashes that come twice, of those that leave the remainder `part` when divided by `parts`."""
    chosen = [hashes[hashes % np.uint64(parts) == part] for hashes in map(_hashes, _keys(corpus, shards))]
    unique, counts = np.unique(np.concatenate(chosen), return_counts=True)
    return unique[counts > 1]


def _keys(corpus: Corpus, shards: list[ShardEntry]) -> Iterator[np.ndarray]:
    """The keys of each row group, (rows,) strings."""
    for shard in shards:
        for index in range(len(shard.row_groups)):
            yield corpus.read_row_group(shard.name, index, ["key"])["key"].to_numpy()


def _hashes(keys: np.ndarray) -> np.ndarray:
    return pandas.util.hash_array(keys, categorize=False)  # (rows,) uint64


def _verify_quarantine(corpus: Corpus, findings: Findings) -> None:
    """Compare quarantine.parquet with the account of the rejected rows in the manifest."""
    try:
        found = _rejected(corpus)
    except FileNotFoundError:
        found = {}
    except Damaged as problem:
        findings.damaged.append(str(problem))
        return
    for name in {**corpus.manifest.sources, **found}:
        expected, counts = (vars(sources.get(name, SourceCounts())) for sources in (corpus.manifest.sources, found))
        for column in ("duplicates", "quarantined", "filtered", "reasons"):
            if expected[column] != counts[column]:
                findings.damaged.append(f"{QUARANTINE}: expected {column} of the source {name} to be {expected[column]}, found {counts[column]}")
                return
    findings.whole.append(f"{QUARANTINE} with {counted(sum(sum(counts.reasons.values()) for counts in found.values()), 'row')}")


def _rejected(corpus: Corpus) -> dict[str, SourceCounts]:
    """The rejected rows of each source, counted. Reads every page."""
    found: dict[str, SourceCounts] = {}
    for table in corpus.quarantine_iter():
        kinds = set(table["kind"].to_pylist()) if table.schema.equals(QUARANTINE_SCHEMA) else {"another column"}
        if not kinds <= set(KINDS):
            raise Damaged(f"{QUARANTINE}: expected rows of the kinds {', '.join(KINDS)}, found {', '.join(sorted(kinds - set(KINDS)))}")
        keys = ["source", "kind", "reason"]
        for row in table.select(keys).group_by(keys).aggregate([([], "count_all")]).to_pylist():
            found.setdefault(row["source"], SourceCounts()).reject(row["kind"], row["reason"], row["count_all"])
    return found
