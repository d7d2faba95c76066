"""`textray describe`: what a corpus holds, in numbers."""

import argparse
import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus import Corpus, Manifest, SourceCounts

DESCRIPTION = "Print what a corpus holds: rows per source, rejects and why, label lengths, image sizes, characters."
EXAMPLE = "example: textray describe corpora/words --json"
QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}
CHARACTERS_SHOWN = 200


def main(argv: list[str] | None = None) -> int:
    """Run `textray describe`."""
    parse = argparse.ArgumentParser(prog="textray describe", description=DESCRIPTION, epilog=EXAMPLE,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("corpus", metavar="CORPUS", help="a folder made by ingest, render or predict")
    parse.add_argument("--json", action="store_true", help="print the numbers as JSON, with every character")
    arguments = parse.parse_args(argv)
    corpus = Corpus.open(arguments.corpus)
    summary = describe(corpus)
    print(json.dumps(summary, indent=1, ensure_ascii=False) if arguments.json else _text(corpus, summary))
    return 0


@dataclass
class Tally:
    """Histograms of integers and characters: exact, and no larger than the number of different values."""

    text_length: Counter = field(default_factory=Counter)
    width: Counter = field(default_factory=Counter)
    height: Counter = field(default_factory=Counter)
    characters: Counter = field(default_factory=Counter)

    def add_table(self, table: pa.Table) -> None:
        """Count the rows of a table with the columns text, width and height."""
        texts = table["text"].drop_null()
        for histogram, column in ((self.text_length, pc.utf8_length(texts)), (self.width, table["width"]),
                                  (self.height, table["height"])):
            for pair in pc.value_counts(column).to_pylist():
                histogram[pair["values"]] += pair["counts"]
        self.characters.update("".join(texts.to_pylist()))

    def add(self, other: "Tally") -> None:
        """Add another tally to this one."""
        for name in vars(self):
            getattr(self, name).update(getattr(other, name))

    def summary(self) -> dict:
        """Quantiles of the three histograms, None for an empty one, and the characters, the most frequent first."""
        order = sorted(self.characters.items(), key=lambda pair: (-pair[1], pair[0]))
        ranges = {name: quantiles(getattr(self, name)) for name in ("text_length", "width", "height")}
        return ranges | {"characters": dict(order)}


def describe(corpus: Corpus) -> dict:
    """Counts from the manifest, and lengths, sizes and characters from one pass over the rows, without the images."""
    tallies = {name: Tally() for name in corpus.manifest.sources}
    for shard in corpus.manifest.shards:
        for index in range(len(shard.row_groups)):
            tallies[shard.source].add_table(corpus.read_row_group(shard.name, index, ["text", "width", "height"]))
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    counts = corpus.manifest.sources
    return {
        "path": corpus.path, "rows": corpus.rows,
        "shards": len(corpus.manifest.shards), "row_groups": len(corpus.row_groups),
        "bytes": sum(shard.bytes for shard in corpus.manifest.shards),
        "sha256": corpus.sha256, "made_by": corpus.manifest.made_by,
        "sources": {name: counts[name].model_dump(by_alias=True) | tallies[name].summary() for name in counts},
        "total": sum_counts(counts.values()).model_dump(by_alias=True) | total.summary(),
    }


def sum_counts(counts: Iterable[SourceCounts]) -> SourceCounts:
    """The counts of all sources together."""
    total = SourceCounts()
    for one in counts:
        total.add(one)
    return total


def quantiles(histogram: Counter) -> dict[str, float] | None:
    """Exact quantiles, interpolated linearly between neighbours (numpy's default); None without a value."""
    if not histogram:
        return None
    values = sorted(histogram)
    upto, total = [], 0
    for value in values:
        total += histogram[value]
        upto.append(total)

    def ranked(rank: int) -> int:
        return next(value for value, count in zip(values, upto, strict=True) if rank < count)

    found = {}
    for name, share in QUANTILES.items():
        position = share * (total - 1)
        low = ranked(int(position))
        high = ranked(min(int(position) + 1, total - 1))
        exact = low + (position - int(position)) * (high - low)
        found[name] = int(exact) if exact == int(exact) else round(exact, 2)
    return found


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


def _text(corpus: Corpus, summary: dict) -> str:
    parts = [counts_table(corpus.manifest), _ranges(summary)]
    characters = summary["total"]["characters"]
    if characters:
        parts.append(_characters(characters))
    parts.append(f"{corpus.path}: {corpus.rows:,} images in {counted(summary['shards'], 'shard')} "
                 f"and {counted(summary['row_groups'], 'row group')}, {summary['bytes'] / 1e6:,.1f} MB, "
                 f"manifest sha256 {corpus.sha256[:16]}…")
    return "\n\n".join(parts)


def _ranges(summary: dict) -> str:
    rows = []
    named = [*summary["sources"].items(), ("all", summary["total"])]
    for name, source in named if len(named) > 2 else named[:1]:
        for what in ("text_length", "width", "height"):
            found = source[what]
            if found is not None:
                values = (f"{found[quantile]:,.1f}".removesuffix(".0") for quantile in QUANTILES)
                rows.append((name, what.replace("_", " "), *values))
    return table(("source", "", *QUANTILES), rows)


def _characters(characters: dict[str, int]) -> str:
    shown = "  ".join(f"{_visible(character)}\N{NO-BREAK SPACE}{count:,}"
                      for character, count in list(characters.items())[:CHARACTERS_SHOWN])
    lines = textwrap.wrap(shown, 110, break_long_words=False, break_on_hyphens=False)
    if len(characters) > CHARACTERS_SHOWN:
        lines.append(f"and {len(characters) - CHARACTERS_SHOWN:,} more, which --json lists")
    head = f"{len(characters):,} different characters, {sum(characters.values()):,} in all"
    return "\n".join([head, *lines]).replace("\N{NO-BREAK SPACE}", " ")


def _visible(character: str) -> str:
    if character == " ":
        return "space"
    return character if character.isprintable() and not character.isspace() else f"U+{ord(character):04X}"


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("describe"))
