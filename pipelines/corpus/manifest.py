"""The manifest, `corpus.json`: what a corpus holds, what became of every row, and how it was made."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipelines.checksum import with_checksum
from pipelines.corpus import storage

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, 3)  # 2 knows no checksums
MANIFEST = "corpus.json"


class SourceCounts(BaseModel):
    """What became of one source's rows: rows_in = kept + duplicates + quarantined + filtered; reasons count the last three."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid")

    rows_in: int = Field(0, alias="in")
    kept: int = 0
    duplicates: int = 0
    quarantined: int = 0
    filtered: int = 0
    labeled: int = 0  # of the kept rows
    reasons: dict[str, int] = {}

    def add(self, other: "SourceCounts") -> None:
        """Add another count of the same source to this one."""
        for name in ("rows_in", "kept", "duplicates", "quarantined", "filtered", "labeled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    def reject(self, kind: str, reason: str, rows: int = 1) -> None:
        """Count rows that did not get in; `kind` is one of KINDS."""
        name = "duplicates" if kind == "duplicate" else kind
        setattr(self, name, getattr(self, name) + rows)
        self.reasons[reason] = self.reasons.get(reason, 0) + rows

    def balanced(self) -> bool:
        """Whether every row that came in is accounted for."""
        rejected = self.duplicates + self.quarantined + self.filtered
        return self.rows_in == self.kept + rejected and sum(self.reasons.values()) == rejected


class ShardEntry(BaseModel):
    """One shard, as the manifest lists it."""

    model_config = ConfigDict(extra="forbid")

    name: str  # file name inside the corpus
    source: str
    rows: int
    bytes: int
    sha256: str
    row_groups: list[int]  # rows in each row group
    footer_sha256: str | None = None  # of the Parquet footer, which no page checksum covers; None in corpora from before


class Versioned(BaseModel):
    """What a manifest of any version says."""

    schema_version: int = SCHEMA_VERSION


class Manifest(BaseModel):
    """The content of corpus.json."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    rows: int
    sources: dict[str, SourceCounts]
    shards: list[ShardEntry]
    made_by: dict[str, Any]  # command and options; no times and no host names, so that two runs give the same bytes
    checksum: str | None = None  # of all the rest; None in corpora from before

    def disagreement(self) -> str | None:
        """How the counts contradict each other, in words; None if they do not. Needs nothing but the manifest."""
        written = Counter()
        for shard in self.shards:
            if shard.rows != sum(shard.row_groups) or min(shard.row_groups, default=1) < 1:
                return f"{shard.name} with {shard.rows} rows and {sum(shard.row_groups)} in its row groups"
            written[shard.source] += shard.rows
        if len({shard.name for shard in self.shards}) < len(self.shards):
            return "one shard listed twice"
        if self.rows != written.total():
            return f"{self.rows} rows and {written.total()} in its shards"
        for name in {**self.sources, **written}:
            counts = self.sources.get(name, SourceCounts())
            if not counts.balanced() or counts.kept != written[name] or not 0 <= counts.labeled <= written[name]:
                return f"{written[name]} rows kept of the source {name}, whose account is {counts.model_dump(by_alias=True)}"
        return None


def write_manifest(folder: str | os.PathLike, shards: Sequence[ShardEntry], sources: dict[str, SourceCounts],
                   made_by: dict[str, Any]) -> Manifest:
    """Write corpus.json: the last step, which turns a folder of shards into a corpus.

    Shards are listed in the order of their names, whatever order they were finished in. Raises ValueError if the
    counts do not add up to the shards.
    """
    ordered = sorted(shards, key=lambda shard: shard.name)
    manifest = Manifest(rows=sum(shard.rows for shard in ordered), sources=sources, shards=ordered, made_by=made_by)
    disagreement = manifest.disagreement()
    if disagreement:
        raise ValueError(f"expected in = kept + duplicates + quarantined + filtered, and the kept rows in the shards, found {disagreement}")
    text = json.dumps(with_checksum(manifest.model_dump(mode="json", by_alias=True)), indent=1, ensure_ascii=False)
    storage.write_bytes(storage.join(os.fspath(folder), MANIFEST), (text + "\n").encode())
    return manifest
