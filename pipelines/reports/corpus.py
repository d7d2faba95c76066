"""The page of a corpus: what is in it, what was left out and why, with pictures."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from pipelines.corpus.account import counted, sum_counts
from pipelines.corpus.characters import CHARSETS, code_point, script, visible
from pipelines.corpus.manifest import SourceCounts
from pipelines.corpus.reader import Corpus
from pipelines.corpus.storage import write_bytes
from pipelines.corpus.tally import Tally, quantiles, sum_tallies, tally
from pipelines.reports.histogram import STYLE as HISTOGRAM_STYLE
from pipelines.reports.histogram import Axis, histogram
from pipelines.reports.html import Markup, heading, isolated, page, paragraph, subheading, table
from pipelines.reports.samples import MEMBERS_SHOWN, Cluster, ContactSheets, Rejects, Shown, benchmark_pictures, gather_rejects

CHIPS = 60  # characters shown of a script
CHIPS_OUTSIDE = 16  # of what a charset lacks
RAREST = 120
# field of Tally, heading, whether it is an integer, whether its axis is always logarithmic
QUANTITIES = (("width", "width, px", True, True), ("height", "height, px", True, True), ("aspect", "width / height", False, True),
              ("text_length", "label length", True, False), ("bytes", "file size, bytes", True, True))
WIDEST = 540  # pixels as a picture is shown: two lines of text beside each other
LOWEST = 48  # small images are shown larger
SECTIONS = (("account", "Account"), ("images", "Images"), ("sizes", "Sizes and lengths"), ("characters", "Characters"),
            ("charsets", "Charsets"), ("rejects", "Rejects"), ("duplicates", "Duplicates"), ("leakage", "Leakage"))
STYLE = HISTOGRAM_STYLE + """
:root { --good: #2a7d46; }
@media (prefers-color-scheme: dark) { :root { --good: #6cc488; } }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; } h3 small, .quiet { font-weight: 400; font-size: .85rem; opacity: .7; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1rem 0; } a { color: inherit; text-underline-offset: .2em; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; } dl.facts dd { overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; font-size: .85rem; border-radius: 6px; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--wrong); font-weight: 600; }
.sheet { display: flex; flex-wrap: wrap; gap: .7rem; align-items: flex-start; }
.card { box-sizing: content-box; max-width: calc(100% - 1rem); margin: 0; padding: .4rem; font-size: .85rem; line-height: 1.35;
  background: var(--soft); border: 1px solid var(--line); border-radius: 6px; overflow-wrap: anywhere; }
.card img { display: block; max-width: 100%; height: auto; margin-bottom: .3rem; border-radius: 2px; }
.card p { margin: 0; } .card .quiet { font-size: .75rem; } .card .quiet .label { font-size: inherit; }
.card.kept { border: 2px solid var(--good); }
.clusters { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-start; }
.cluster { box-sizing: border-box; max-width: 100%; border: 1px solid var(--line); border-radius: 6px; padding: .6rem; }
.cluster > p { margin: 0 0 .4rem; }
.bytes { font: .75rem/1.4 ui-monospace, monospace; border: 1px dashed var(--line); padding: .4rem; margin: 0 0 .3rem; }
.code { font: .8em ui-monospace, monospace; border: 1px solid var(--line); border-radius: 3px; padding: 0 .2em; }
.label { unicode-bidi: isolate; white-space: pre-wrap; font-size: 1rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(12rem, 100%), 1fr)); gap: .4rem 1.6rem; }
.charts figure { margin: .3rem 0; } .charts figcaption { font-size: .8rem; } .charts figcaption b { font-weight: 600; }
.chips { display: flex; flex-wrap: wrap; gap: .15rem .55rem; min-width: 14rem; } .chip { white-space: nowrap; }
.chip b { font-weight: 600; font-size: 1.05rem; } .chip small { opacity: .65; font-variant-numeric: tabular-nums; }
td { vertical-align: top; } details { margin: .8rem 0; } summary { cursor: pointer; }
"""


def write_page(corpus: Corpus, file: str, images: int, seed: int, guard: Sequence[str] = ()) -> tuple[dict[str, Tally], int]:
    """Write the page of a corpus, with `images` images of each source drawn by `seed`.

    The benchmarks to `guard` (PATH or NAME=PATH each) are where the pictures beside leaked images come from.

    Streams the corpus: memory holds one row group and the pictures of the page. Returns the tallies of the sources, and the
    size of the page in bytes.
    """
    sheets = ContactSheets(corpus, images, seed)
    tallies = tally(corpus, sheets)
    rejects = gather_rejects(corpus, seed)
    leaked = {one.match for shown in rejects.leaks.values() for one in shown}
    benchmark = benchmark_pictures(guard, leaked) if leaked and guard else {}
    text = page(f"Corpus {Path(corpus.path).name}", *_head(corpus), _contents(), *_account(corpus, rejects), *_images(corpus, sheets),
                *_sizes(tallies, sheets), *_characters(tallies), *_charsets(corpus, tallies), *_rejects(rejects),
                *_duplicates(rejects), *_leakage(rejects, benchmark), style=STYLE)
    data = text.encode()
    write_bytes(file, data)
    return tallies, len(data)


def _section(name: str) -> str:
    return heading(dict(SECTIONS)[name], name)


def _contents() -> str:
    return "<nav>" + "".join(f'<a href="#{name}">{title}</a>' for name, title in SECTIONS) + "</nav>"


def _head(corpus: Corpus) -> list[str]:
    manifest = corpus.manifest
    size = sum(shard.bytes for shard in manifest.shards)
    total = sum_counts(manifest.sources.values())
    facts = [("path", corpus.path), ("images", f"{corpus.rows:,}, {total.labeled:,} of them labeled"),
             ("sources", f"{len(manifest.sources):,}"),
             ("files", f"{counted(len(manifest.shards), 'shard')}, {counted(len(corpus.row_groups), 'row group')}, {size / 1e6:,.1f} MB"),
             ("manifest", f"sha256 {corpus.sha256}"), ("made by", f"textray {manifest.made_by.get('command', '(unknown)')}")]
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    made = escape(json.dumps(manifest.made_by, indent=1, ensure_ascii=False))
    return [f'<dl class="facts">{lines}</dl>', f"<details><summary>How it was made</summary><pre>{made}</pre></details>"]


def _account(corpus: Corpus, rejects: Rejects) -> list[str]:
    """in = kept + duplicates + filtered + quarantined, per source; then per reason."""
    sources = corpus.manifest.sources
    total = sum_counts(sources.values())
    rows = [_account_row(name, counts) for name, counts in sources.items()]
    if len(sources) > 1:
        rows.append(_account_row("all", total))
    pieces = [_section("account"),
              table(("source", "in", "= kept", "+ duplicates", "+ filtered", "+ quarantined", "", "labeled"), rows,
                    numbers=range(1, 8), sums=int(len(sources) > 1))]
    reasons = sorted(rejects.counts.items(), key=lambda item: (item[0][0], -item[1].total(), item[0]))
    if reasons:
        pieces.append(table(("rejected as", "reason", "rows", "from"),
                            [(kind, reason, f"{counts.total():,}", _by_source(counts)) for (kind, reason), counts in reasons], numbers=[2]))
    expected = total.rows_in - total.kept
    same = rejects.rows == expected
    pieces.append(paragraph(_mark(same, f"quarantine.parquet holds {counted(rejects.rows, 'row')}, "
                                        + ("as the account says." if same else f"the account says {expected:,}."))))
    return pieces


def _account_row(name: str, counts: SourceCounts) -> tuple:
    numbers = (counts.rows_in, counts.kept, counts.duplicates, counts.filtered, counts.quarantined)
    exact = counts.balanced()
    return (name, *(f"{number:,}" for number in numbers), _mark(exact, "exact" if exact else "does not add up"), f"{counts.labeled:,}")


def _by_source(counts: Counter) -> str:
    return ", ".join(f"{source} {count:,}" for source, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _mark(good: bool, text: str) -> Markup:
    return Markup(f'<span class="{"good" if good else "bad"}">{"✓" if good else "✗"}</span> {escape(text)}')


def _images(corpus: Corpus, sheets: ContactSheets) -> list[str]:
    pieces = [_section("images"), paragraph("Drawn by seed over each whole source; under each image its label and its size in pixels.")]
    for name, shown in sheets.sheets.items():
        kept = corpus.manifest.sources[name].kept
        pieces.append(subheading(_title(name, f"{len(shown):,} of {counted(kept, 'image')}")))
        pieces.append(_sheet(_card(one, ()) for one in shown) if shown else _none())
    return pieces


def _title(name: str, remark: str) -> Markup:
    return Markup(f"{escape(name)} <small>{escape(remark)}</small>")


def _none() -> str:
    return paragraph(Markup('<span class="quiet">none</span>'))


def _sheet(cards: Iterable[str]) -> str:
    return '<div class="sheet">\n' + "\n".join(cards) + "\n</div>"


def _card(shown: Shown, lines: Sequence[object], *, kind: str = "", conflict: bool = False) -> str:
    """An image with its label below it, and lines in small print; `conflict` sets the label in red."""
    if shown.picture is not None:
        source, width, height = shown.picture
        scale = min(max(1.0, min(LOWEST / height, WIDEST / 2 / width)), WIDEST / width)
        width, height = round(width * scale), round(height * scale)
        image = f'<img src="{source}" width="{width}" height="{height}" alt="">'
    else:
        width, image = 190, _undecodable(shown)
    label = '<span class="quiet">no label</span>' if shown.text is None else isolated(shown.text) if shown.text else \
        '<span class="quiet">empty label</span>'
    size = [f"{shown.size[0]} × {shown.size[1]}"] if shown.size else []
    small = "".join(f'<p class="quiet">{line if isinstance(line, Markup) else isolated(str(line))}</p>' for line in [*size, *lines])
    room = max(width, 150 if lines else 110)
    return (f'<div class="card{kind and " " + kind}" style="width:{room}px" title="{escape(shown.key)}">{image}'
            f'<p{" class=bad" if conflict else ""}>{label}</p>{small}</div>')


def _undecodable(shown: Shown) -> str:
    if not shown.head:
        return f'<p class="bytes">{"no image" if shown.bytes is None else "0 bytes"}</p>'
    readable = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in shown.head)
    return f'<p class="bytes">{counted(shown.bytes, "byte")}, the first:<br>{shown.head.hex(" ")}<br>{escape(readable)}</p>'


def _sizes(tallies: dict[str, Tally], sheets: ContactSheets) -> list[str]:
    """Small multiples: a row of histograms per source, on axes that all sources share."""
    named = [*tallies.items(), ("all", sum_tallies(tallies.values()))] if len(tallies) > 1 else list(tallies.items())
    axes = {field: Axis.over([value for one in tallies.values() for value in getattr(one, field)], whole=whole, logarithmic=logarithmic)
            for field, _, whole, logarithmic in QUANTITIES}
    measured = "all images" if sheets.groups_read == sheets.groups else \
        f"a sample of {sheets.groups_read:,} of the {sheets.groups:,} row groups; everything else from all rows"
    pieces = [_section("sizes"), paragraph("All sources share the axes; wide spans are logarithmic. After the median the span of all but "
                                           f"the lowest and the highest 5 %. File sizes are from {measured}.")]
    for name, one in named:
        pieces.append(subheading(_title(name, counted(sum(one.width.values()), "image"))))
        if not one.width:
            pieces.append(_none())
            continue
        pieces.append('<div class="charts">' + "".join(_chart(name, one, field, title, axes[field]) for field, title, _, _ in QUANTITIES)
                      + "</div>")
    return pieces


def _chart(name: str, one: Tally, field: str, title: str, axis: Axis | None) -> str:
    counts = getattr(one, field)
    found = quantiles(counts, ("5%", "median", "95%"))
    if found is None or axis is None:
        return f'<figure><figcaption><b>{title}</b><br><span class="quiet">none</span></figcaption></figure>'
    low, median, high = (f"{value:,.{2 if field == 'aspect' else 0}f}" for value in found.values())
    return (f'<figure><figcaption><b>{title}</b><br><span class="quiet">median {median}, {low}–{high}</span></figcaption>'
            f'{histogram(counts, axis, escape(f"{title} of {name}"))}</figure>')


def _characters(tallies: dict[str, Tally]) -> list[str]:
    total: Counter = sum_tallies(tallies.values()).characters
    pieces = [_section("characters")]
    if not total:
        return [*pieces, _none()]
    occurrences = sum(total.values())
    pieces.append(paragraph(f"{len(total):,} different characters, {occurrences:,} in all. A mark stands on a dotted circle; what has no "
                            "shape of its own appears as its code point."))
    groups: dict[str, Counter] = {}
    for character, count in total.items():
        groups.setdefault(script(character), Counter())[character] = count
    rows = [(name, f"{len(found):,}", f"{found.total():,}", f"{100 * found.total() / occurrences:.1f} %", _chips(found, CHIPS))
            for name, found in sorted(groups.items(), key=lambda pair: (-pair[1].total(), pair[0]))]
    pieces.append(table(("script", "different", "occurrences", "", "the most frequent"), rows, numbers=(1, 2, 3)))
    if len(tallies) > 1:
        rows = [(name, f"{len(one.characters):,}", f"{one.characters.total():,}", _scripts(one.characters))
                for name, one in tallies.items()]
        pieces.append(table(("source", "different", "occurrences", "scripts"), rows, numbers=(1, 2)))
    rarest = sorted(total.items(), key=lambda pair: (pair[1], pair[0]))[:RAREST]
    chips = _chip_box(_chip(character, count, code_point(character)) for character, count in rarest)
    pieces.append(f"<details><summary>The {len(rarest):,} rarest</summary>{chips}</details>")
    return pieces


def _scripts(characters: Counter) -> str:
    groups: Counter = Counter()
    for character, count in characters.items():
        groups[script(character)] += count
    return ", ".join(f"{name} {100 * count / characters.total():.3g} %" for name, count in groups.most_common())


def _chips(characters: Counter, most: int) -> Markup:
    ordered = sorted(characters.items(), key=lambda pair: (-pair[1], pair[0]))
    more = [f'<span class="chip">and {len(ordered) - most:,} more</span>'] if len(ordered) > most else []
    return _chip_box([*(_chip(character, count) for character, count in ordered[:most]), *more])


def _chip_box(chips: Iterable[str]) -> Markup:
    return Markup(f'<div class="chips">{"".join(chips)}</div>')


def _chip(character: str, count: int, extra: str = "") -> str:
    more = f" {extra}" if extra and extra != visible(character) else ""
    return (f'<span class="chip" title="{code_point(character)}"><b><bdi>{escape(visible(character))}</bdi></b>{more} '
            f"<small>{count:,}</small></span>")


def _charsets(corpus: Corpus, tallies: dict[str, Tally]) -> list[str]:
    """What the named charsets cannot spell: such rows are no use to a recognizer with that charset."""
    counts = corpus.manifest.sources
    named = [(name, one, counts[name].labeled) for name, one in tallies.items()]
    if len(named) > 1:
        named.append(("all", sum_tallies(tallies.values()), sum_counts(counts.values()).labeled))
    rows = []
    for name, one, labeled in named:
        for charset, found in one.summary()["charsets"].items() if labeled else ():
            rows.append((name if charset == CHARSETS[0] else "", charset, f"{found['rows_outside']:,} of {labeled:,}",
                         f"{100 * found['rows_outside'] / labeled:.1f} %", f"{found['characters_outside']:,}",
                         _chips(Counter(found["outside"]), CHIPS_OUTSIDE) if found["outside"] else "none"))
    if not rows:
        return [_section("charsets"), _none()]
    return [_section("charsets"), paragraph("Labels that a recognizer with the charset cannot spell. 36: digits and letters without case; "
                                            "62: with case; 94: and the ASCII punctuation."),
            table(("source", "charset", "labels outside", "", "characters outside", "the most frequent of them"), rows, numbers=(2, 3, 4))]


def _rejects(rejects: Rejects) -> list[str]:
    pieces = [_section("rejects"), paragraph("Rows that did not get in, each with what was found in it. Duplicates and leaked benchmark "
                                             "images follow below.")]
    for (kind, reason), shown in sorted(rejects.examples.items(), key=lambda pair: (pair[0][0], -rejects.counts[pair[0]].total(), pair[0])):
        rows = rejects.counts[kind, reason]
        remark = f"{kind}, {counted(rows.total(), 'row')}" + (f", {len(shown)} of them shown" if len(shown) < rows.total() else "")
        pieces.append(subheading(_title(reason, remark)))
        pieces.append(_sheet(_card(one, [line for line in (one.detail, one.key) if line]) for one in shown))
    return pieces if rejects.examples else [*pieces, _none()]


def _duplicates(rejects: Rejects) -> list[str]:
    pieces = [_section("duplicates")]
    sizes = rejects.cluster_sizes
    if not sizes:
        return [*pieces, _none()]
    dropped = sum(size * count for size, count in sizes.items())
    bounds = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 100), (101, max(101, *sizes)))
    rows = [(f"{low:,}" if low == high else f"{low:,} to {high:,}", f"{count:,}") for low, high in bounds
            if (count := sum(number for size, number in sizes.items() if low <= size <= high))]
    pieces.append(paragraph(f"{counted(dropped, 'image')} dropped, each nearly or exactly one of {sizes.total():,} that stayed. Framed in "
                            "green: the one that stayed. A label in red differs from that one's."))
    pieces.append(table(("dropped per image that stayed", "such images"), rows, numbers=[1]))
    for title, clusters in (("Largest", rejects.largest), ("Drawn from the others", rejects.others)):
        if clusters:
            pieces += [subheading(title), '<div class="clusters">', *map(_cluster, clusters), "</div>"]
    return pieces


def _cluster(cluster: Cluster) -> str:
    kept = cluster.kept
    first = _card(kept, [kept.key], kind="kept") if kept else \
        f'<div class="card"><p class="bad">not in the corpus:</p><p>{isolated(cluster.match)}</p></div>'
    others = [_card(one, [line for line in (one.reason, one.detail, one.key) if line], conflict=_conflict(kept, one))
              for one in cluster.members]
    more = [f'<p class="quiet">and {cluster.dropped - len(others):,} more</p>'] if cluster.dropped > MEMBERS_SHOWN else []
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in cluster.reasons.most_common())
    return f'<div class="cluster"><p class="quiet">{escape(reasons)}</p>{_sheet([first, *others, *more])}</div>'


def _conflict(kept: Shown | None, dropped: Shown) -> bool:
    """Whether a label was lost that the image that stayed does not have."""
    return kept is not None and dropped.text is not None and dropped.text != kept.text


def _leakage(rejects: Rejects, benchmark: dict[str, Shown]) -> list[str]:
    beside = " Framed in green: the benchmark's image." if benchmark else " `textray describe --guard SET` shows the benchmark's images too."
    pieces = [_section("leakage"), paragraph("Images taken out because they are, or nearly are, a benchmark's test image, with the key of "
                                             "that one." + (beside if rejects.leaks else ""))]
    for reason, shown in sorted(rejects.leaks.items()):
        rows = rejects.leaked[reason]
        remark = f"{counted(rows.total(), 'row')} ({_by_source(rows)})"
        if len(shown) < rows.total():
            remark += f", {len(shown)} of them shown"
        pieces.append(subheading(_title(reason, remark)))
        if benchmark:
            pieces += ['<div class="clusters">', *(_leak(one, benchmark.get(one.match)) for one in shown), "</div>"]
        else:
            pieces.append(_sheet(_card(one, [f"is {one.match}", *([one.detail] if one.detail else []), one.key]) for one in shown))
    return pieces if rejects.leaks else [*pieces, _none()]


def _leak(one: Shown, image: Shown | None) -> str:
    first = _card(image, [image.key], kind="kept") if image else f'<div class="card"><p class="bad">not found:</p><p>{isolated(one.match)}</p></div>'
    return f'<div class="cluster">{_sheet([first, _card(one, [line for line in (one.detail, one.key) if line])])}</div>'
