"""The account of every row that came in, as text: kept, a duplicate, quarantined or filtered, and why."""

from collections.abc import Iterable, Sequence

from pipelines.corpus.manifest import Manifest, SourceCounts


def sum_counts(counts: Iterable[SourceCounts]) -> SourceCounts:
    """The counts of all sources together."""
    total = SourceCounts()
    for one in counts:
        total.add(one)
    return total


def counted(number: int, noun: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns: the first flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    aligned = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
               for row in (head, *rows)]
    return "\n".join("  ".join(row).rstrip() for row in aligned)


def counts_table(manifest: Manifest) -> str:
    """Rows per source, and below them the reasons of what was rejected."""
    total = sum_counts(manifest.sources.values())
    named = [*manifest.sources.items(), ("all", total)] if len(manifest.sources) > 1 else list(manifest.sources.items())
    columns = ("rows_in", "kept", "labeled", "duplicates", "quarantined", "filtered")
    rows = [(name, *(f"{getattr(counts, column):,}" for column in columns)) for name, counts in named]
    text = table(("source", "in", "kept", "labeled", "duplicates", "quarantined", "filtered"), rows)
    if total.reasons:
        reasons = [(name, reason, f"{count:,}")
                   for name, counts in manifest.sources.items() for reason, count in counts.reasons.items()]
        text += "\n\n" + table(("rejected", "reason", "rows"), reasons) + "\neach with its key in quarantine.parquet"
    return text
