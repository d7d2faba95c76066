"""The page of a corpus: what is in it, what was left out and why, with pictures."""

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.corpus.account import counted, sum_counts
from pipelines.corpus.characters import CHARSETS, code_point, script, visible
from pipelines.corpus.manifest import SourceCounts
from pipelines.corpus.reader import Corpus
from pipelines.corpus.storage import write_bytes
from pipelines.corpus.tally import Tally, quantiles, sum_tallies, tally
from pipelines.reports.histogram import Axis, Histogram
from pipelines.reports.html import fitted, render
from pipelines.reports.samples import CONFLICTS_FOR, HIGHEST, MEMBERS_SHOWN, Cluster, ContactSheets, Rejects, Shown, benchmark_pictures, gather_rejects
from pipelines.reports.samples import WIDEST as PICTURE_WIDEST

if TYPE_CHECKING:
    from pipelines.prediction.orientation import Orientation  # which reads with a model, as most pages need not

CHIPS = 60  # characters shown of a script
CHIPS_OUTSIDE = 16  # of what a charset lacks
RAREST = 120
SPELLED = 0.99  # share of the labels that a recommended charset can spell
LONGEST = 0.999  # share of the labels that a recommended max_length has room for
# field of Tally, heading, whether it is an integer, whether its axis is always logarithmic
QUANTITIES = (("width", "width, px", True, True), ("height", "height, px", True, True), ("aspect", "width / height", False, True),
              ("text_length", "label length", True, False), ("bytes", "file size, bytes", True, True))
WIDEST = 540  # pixels as a picture is shown: two lines of text beside each other
LOWEST = 48  # small images are shown larger
SECTIONS = (("account", "Account"), ("charset", "Charset"), ("images", "Images"), ("sizes", "Sizes and lengths"), ("orientation", "Orientation"),
            ("characters", "Characters"), ("conflicts", "Label conflicts"), ("rejects", "Rejects"), ("duplicates", "Duplicates"), ("leakage", "Leakage"))


@dataclass(frozen=True)
class Card:
    """An image on the page with its label below it, and lines in small print."""

    key: str
    text: str | None
    source: str  # data URI; "" where there is no picture
    width: int  # pixels as it is shown
    height: int
    room: int  # pixels of the card
    bytes: dict[str, str] | None  # what is said of an image that cannot be decoded
    lines: list[str]
    kind: str  # "kept" frames it in green
    conflict: bool  # sets the label in red


def write_page(corpus: Corpus, file: str, images: int, seed: int, guard: Sequence[str] = (), orientation: "Orientation | None" = None) -> tuple[dict[str, Tally], int]:
    """Write the page of a corpus, with `images` images of each source drawn by `seed`.

    The benchmarks to `guard` (PATH or NAME=PATH each) are where the pictures beside leaked images come from.

    Streams the corpus: memory holds one row group and the pictures of the page. Returns the tallies of the sources, and the
    size of the page in bytes. Sections of which there is nothing are left out.
    """
    sheets = ContactSheets(corpus, images, seed)
    tallies = tally(corpus, sheets)
    rejects = gather_rejects(corpus, seed)
    leaked = {one.match for shown in rejects.leaks.values() for one in shown}
    benchmark = benchmark_pictures(guard, leaked) if leaked and guard else {}
    sections = {"account": _account(corpus, rejects), "charset": _charset(corpus, tallies), "images": _images(corpus, sheets), "sizes": _sizes(tallies, sheets),
                "orientation": orientation and _orientation(orientation), "characters": _characters(tallies), "conflicts": _conflicts(rejects),
                "rejects": _rejects(rejects), "duplicates": _duplicates(rejects), "leakage": _leakage(rejects, benchmark)}
    text = render("corpus.html", {
        "title": f"Corpus {Path(corpus.path).name}", "facts": _facts(corpus), "made": json.dumps(corpus.manifest.made_by, indent=1, ensure_ascii=False),
        "sections": [(name, title) for name, title in SECTIONS if sections[name]], **sections})
    data = text.encode()
    write_bytes(file, data)
    return tallies, len(data)


def _facts(corpus: Corpus) -> list[tuple[str, str]]:
    manifest = corpus.manifest
    size = sum(shard.bytes for shard in manifest.shards)
    total = sum_counts(manifest.sources.values())
    return [("path", corpus.path), ("images", f"{corpus.rows:,}, {total.labeled:,} of them labeled"), ("sources", f"{len(manifest.sources):,}"),
            ("files", f"{counted(len(manifest.shards), 'shard')}, {counted(len(corpus.row_groups), 'row group')}, {size / 1e6:,.1f} MB"),
            ("manifest", f"sha256 {corpus.sha256}"), ("made by", f"textray {manifest.made_by.get('command', '(unknown)')}")]


def _account(corpus: Corpus, rejects: Rejects) -> dict[str, Any]:
    """in = kept + duplicates + filtered + quarantined, per source; then per reason."""
    sources = corpus.manifest.sources
    total = sum_counts(sources.values())
    rows = [_account_row(name, counts) for name, counts in sources.items()]
    rows += [_account_row("all", total)] if len(sources) > 1 else []
    reasons = sorted(rejects.counts.items(), key=lambda item: (item[0][0], -item[1].total(), item[0]))
    expected = total.rows_in - total.kept
    same = rejects.rows == expected
    return {"rows": rows, "sum": len(sources) > 1, "same": same,
            "reasons": [(kind, reason, f"{counts.total():,}", _by_source(counts)) for (kind, reason), counts in reasons],
            "said": f"quarantine.parquet holds {counted(rejects.rows, 'row')}, " + ("as the account says." if same else f"the account says {expected:,}.")}


def _account_row(name: str, counts: SourceCounts) -> dict[str, Any]:
    numbers = (counts.rows_in, counts.kept, counts.duplicates, counts.filtered, counts.quarantined)
    return {"name": name, "numbers": [f"{number:,}" for number in numbers], "exact": counts.balanced(), "labeled": f"{counts.labeled:,}"}


def _by_source(counts: Counter) -> str:
    return ", ".join(f"{source} {count:,}" for source, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _images(corpus: Corpus, sheets: ContactSheets) -> list[tuple[str, str, list[Card]]]:
    return [(name, f"{len(shown):,} of {counted(corpus.manifest.sources[name].kept, 'image')}", [_card(one, ()) for one in shown])
            for name, shown in sheets.sheets.items() if shown]


def _card(shown: Shown, lines: Sequence[str], *, kind: str = "", conflict: bool = False) -> Card:
    width, height, source = 190, 0, ""
    if shown.picture is not None:
        source, width, height = shown.picture
        scale = min(max(1.0, min(LOWEST / height, WIDEST / 2 / width)), WIDEST / width)
        width, height = round(width * scale), round(height * scale)
    size = [f"{shown.size[0]} × {shown.size[1]}"] if shown.size else []
    return Card(shown.key, shown.text, source, width, height, max(width, 150 if lines else 110), None if source else _undecodable(shown), [*size, *lines], kind, conflict)


def _undecodable(shown: Shown) -> dict[str, str]:
    if not shown.head:
        return {"said": "no image" if shown.bytes is None else "0 bytes", "hex": "", "readable": ""}
    return {"said": counted(shown.bytes, "byte"), "hex": shown.head.hex(" "), "readable": "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in shown.head)}


def _sizes(tallies: dict[str, Tally], sheets: ContactSheets) -> dict[str, Any] | None:
    """Small multiples: a row of histograms per source, on axes that all sources share."""
    total = sum_tallies(tallies.values())
    named = [*tallies.items(), ("all", total)] if len(tallies) > 1 else list(tallies.items())
    axes = {field: Axis.over([value for one in tallies.values() for value in getattr(one, field)], whole=whole, logarithmic=logarithmic)
            for field, _, whole, logarithmic in QUANTITIES}
    drawn = [(name, counted(sum(one.width.values()), "image"), [_chart(name, one, field, title, axes[field]) for field, title, _, _ in QUANTITIES])
             for name, one in named if one.width]
    measured = "all images" if sheets.groups_read == sheets.groups else \
        f"a sample of {sheets.groups_read:,} of the {sheets.groups:,} row groups; everything else from all rows"
    return {"measured": measured, "sources": drawn, "upright": _upright(total)} if drawn else None


def _upright(total: Tally) -> str:
    """A sentence on images that are taller than wide; "" where there are none."""
    tall, images = sum(count for aspect, count in total.aspect.items() if aspect < 1), total.aspect.total()
    return f"{counted(tall, 'image')} ({100 * tall / images:.1f} %) are taller than wide: single characters, words written downwards, or words turned by 90 degrees." if tall else ""


def _chart(name: str, one: Tally, field: str, title: str, axis: Axis | None) -> dict[str, Any]:
    counts = getattr(one, field)
    found = quantiles(counts, ("5%", "median", "95%"))
    if found is None or axis is None:
        return {"title": title, "span": "none", "histogram": None}
    low, median, high = (f"{value:,.{2 if field == 'aspect' else 0}f}" for value in found.values())
    return {"title": title, "span": f"median {median}, {low}–{high}", "histogram": Histogram.of(counts, axis, f"{title} of {name}")}


def _orientation(found: "Orientation") -> dict[str, Any]:
    said = (f"Of {counted(found.looked, 'image')}, evenly drawn, {found.model} reads {found.read:,} with a confidence of 0.5 or more one way or the other; "
            f"{found.upside_down:,} of these ({100 * found.share:.1f} %) at least twice as surely when they are turned"
            + (": probably they are upside down." if found.clear else "."))
    if found.clear:
        said += " If the pictures say so, too, read and train on them both ways up: textray predict --both-ways-up writes them upright into a corpus."
    elif found.upside_down:
        said += " So few may be mistakes of the model: where the pictures stand upright, reading both ways up costs accuracy."
    cards = [_card(Shown(key, "", text, fitted(image, PICTURE_WIDEST, HIGHEST)), [key]) for key, image, text in found.shown]
    title = "Probably upside down" if found.clear else "Read more surely upside down"
    return {"said": said, "title": title, "cards": cards, "shown": f"the {len(cards)} surest of {found.upside_down:,}"}


def _characters(tallies: dict[str, Tally]) -> dict[str, Any] | None:
    total: Counter = sum_tallies(tallies.values()).characters
    if not total:
        return None
    occurrences = sum(total.values())
    groups: dict[str, Counter] = {}
    for character, count in total.items():
        groups.setdefault(script(character), Counter())[character] = count
    scripts = [{"name": name, "different": f"{len(found):,}", "occurrences": f"{found.total():,}", "share": f"{100 * found.total() / occurrences:.1f} %",
                "chips": _chips(found, CHIPS)} for name, found in sorted(groups.items(), key=lambda pair: (-pair[1].total(), pair[0]))]
    sources = [(name, f"{len(one.characters):,}", f"{one.characters.total():,}", _scripts(one.characters)) for name, one in tallies.items()]
    rarest = sorted(total.items(), key=lambda pair: (pair[1], pair[0]))[:RAREST]
    return {"said": f"{len(total):,} different characters, {occurrences:,} in all.", "scripts": scripts, "sources": sources if len(tallies) > 1 else [],
            "rarest": {"shown": [_chip(character, count, code_point(character)) for character, count in rarest], "more": ""}}


def _scripts(characters: Counter) -> str:
    groups: Counter = Counter()
    for character, count in characters.items():
        groups[script(character)] += count
    return ", ".join(f"{name} {100 * count / characters.total():.3g} %" for name, count in groups.most_common())


def _chips(characters: Counter, most: int) -> dict[str, Any]:
    ordered = sorted(characters.items(), key=lambda pair: (-pair[1], pair[0]))
    return {"shown": [_chip(character, count) for character, count in ordered[:most]], "more": f"{len(ordered) - most:,}" if len(ordered) > most else ""}


def _chip(character: str, count: int, extra: str = "") -> dict[str, str]:
    return {"point": code_point(character), "visible": visible(character), "extra": extra if extra != visible(character) else "", "count": f"{count:,}"}


def _charset(corpus: Corpus, tallies: dict[str, Tally]) -> dict[str, Any] | None:
    """Which charset to take, and what the named ones cannot spell: such rows are no use to a recognizer with that charset."""
    counts, total = corpus.manifest.sources, sum_tallies(tallies.values())
    named = [(name, one, counts[name].labeled) for name, one in tallies.items()]
    if len(named) > 1:
        named.append(("all", total, sum_counts(counts.values()).labeled))
    rows = [{"name": name if charset == CHARSETS[0] else "", "charset": charset, "outside": f"{found['rows_outside']:,} of {labeled:,}",
             "share": f"{100 * found['rows_outside'] / labeled:.1f} %", "characters": f"{found['characters_outside']:,}",
             "chips": _chips(Counter(found["outside"]), CHIPS_OUTSIDE) if found["outside"] else None}
            for name, one, labeled in named if labeled for charset, found in one.summary()["charsets"].items()]
    if not rows:
        return None
    said, charset = recommended(total, sum_counts(counts.values()).labeled)
    length = max(1, _quantile(total.text_length, LONGEST))
    return {"rows": rows, "said": said, "recipe": f"recognizer:\n  charset: {quoted(charset)}\n  options: {{max_length: {length}}}"}


def recommended(total: Tally, labeled: int) -> tuple[str, str]:
    """A sentence, and the charset to take for labels: the smallest named one that spells nearly all of them as they are written, else their own characters."""
    capitals = any(character != character.lower() for character in total.characters)
    for charset in CHARSETS[1:] if capitals else CHARSETS:
        spelled = 1 - total.rows_outside[charset] / labeled
        if spelled >= SPELLED:
            case = " The field's benchmarks are compared without case: for those 36 is enough." if capitals else ""
            return f"{charset} spells {100 * spelled:.1f} % of the labels as they are written.{case}", charset
    own = "".join(sorted(total.characters))
    return (f"None of the named charsets spells {100 * SPELLED:.0f} % of the labels; these are their own {len(own):,} characters. Look for slips among the rarest, and "
            "for characters that no label happens to have.", own)


def quoted(text: str) -> str:
    """A string for YAML in double quotes, in which nothing is invisible, combines with its neighbour or turns the line around."""
    def one(character: str) -> str:
        if character in '"\\':
            return "\\" + character
        seen = character == " " or (character.isprintable() and unicodedata.category(character)[0] not in "MZ" and unicodedata.bidirectional(character) not in ("R", "AL"))
        return character if seen else f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"

    return f'"{"".join(map(one, text))}"'


def _quantile(histogram: Counter, share: float) -> int:
    """The least value that so much of a histogram does not exceed."""
    reached, total = 0, histogram.total()
    for value in sorted(histogram):
        reached += histogram[value]
        if reached >= share * total:
            return value
    return 0


def _conflicts(rejects: Rejects) -> dict[str, Any] | None:
    found = rejects.conflicts
    if not found.images:
        return None
    said = f"{counted(found.images, 'image')} came in once more, byte for byte, with another label than the one that stayed; one of the two is wrong."
    shown = f" {len(found.clusters):,} of {found.kept:,} shown." if len(found.clusters) < found.kept else ""
    first = f" Of the first {found.looked_at:,} exact duplicates with labels." if found.looked_at >= CONFLICTS_FOR else ""
    return {"said": said + shown + first, "clusters": [_cluster(each) for each in found.clusters]}


def _rejects(rejects: Rejects) -> list[tuple[str, str, list[Card]]]:
    found = []
    for (kind, reason), shown in sorted(rejects.examples.items(), key=lambda pair: (pair[0][0], -rejects.counts[pair[0]].total(), pair[0])):
        rows = rejects.counts[kind, reason]
        remark = f"{kind}, {counted(rows.total(), 'row')}" + (f", {len(shown)} of them shown" if len(shown) < rows.total() else "")
        found.append((reason, remark, [_card(one, [line for line in (one.detail, one.key) if line]) for one in shown]))
    return found


def _duplicates(rejects: Rejects) -> dict[str, Any] | None:
    sizes = rejects.cluster_sizes
    if not sizes:
        return None
    dropped = sum(size * count for size, count in sizes.items())
    bounds = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 100), (101, max(101, *sizes)))
    rows = [(f"{low:,}" if low == high else f"{low:,} to {high:,}", f"{count:,}") for low, high in bounds
            if (count := sum(number for size, number in sizes.items() if low <= size <= high))]
    return {"said": f"{counted(dropped, 'image')} dropped, each nearly or exactly one of {sizes.total():,} that stayed.", "rows": rows,
            "groups": [(title, [_cluster(each) for each in clusters]) for title, clusters in (("Largest", rejects.largest), ("Drawn from the others", rejects.others))
                       if clusters]}


def _cluster(cluster: Cluster) -> dict[str, Any]:
    kept = cluster.kept
    others = [_card(one, [line for line in (one.reason, one.detail, one.key) if line], conflict=_conflict(kept, one)) for one in cluster.members]
    return {"reasons": ", ".join(f"{reason}: {count:,}" for reason, count in cluster.reasons.most_common()), "kept": kept and _card(kept, [kept.key], kind="kept"),
            "missing": "not in the corpus:", "match": cluster.match, "others": others,
            "more": f"{cluster.dropped - len(others):,}" if cluster.dropped > MEMBERS_SHOWN else ""}


def _conflict(kept: Shown | None, dropped: Shown) -> bool:
    """Whether a label was lost that the image that stayed does not have."""
    return kept is not None and dropped.text is not None and dropped.text != kept.text


def _leakage(rejects: Rejects, benchmark: dict[str, Shown]) -> dict[str, Any] | None:
    if not rejects.leaks:
        return None
    reasons = []
    for reason, shown in sorted(rejects.leaks.items()):
        rows = rejects.leaked[reason]
        remark = f"{counted(rows.total(), 'row')} ({_by_source(rows)})" + (f", {len(shown)} of them shown" if len(shown) < rows.total() else "")
        cards = [_card(one, [f"is {one.match}", *([one.detail] if one.detail else []), one.key]) for one in shown]
        reasons.append((reason, remark, cards, [_leak(one, benchmark.get(one.match)) for one in shown] if benchmark else []))
    return {"beside": bool(benchmark), "reasons": reasons}


def _leak(one: Shown, image: Shown | None) -> dict[str, Any]:
    return {"reasons": "", "kept": image and _card(image, [image.key], kind="kept"), "missing": "not found:", "match": one.match,
            "others": [_card(one, [line for line in (one.detail, one.key) if line])], "more": ""}
