"""A stream of a run: which corpora it uses, in which order and proportions, and what each worker takes of it.

The processes that read import this file, selection.py and windows.py, and neither PyTorch nor OpenCV, which would cost each of them
seconds at its start.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.feed.plan import Mix, Plan, Window, held_whole, lanes_for
from pipelines.feed.selection import Selection, usable_rows


@dataclass(frozen=True)
class Ingredient:
    """Rows of one corpus with an order of their own. `width`: of the batches that it gives, pixels; None: the recognizer's."""

    path: str
    selection: Selection
    plan: Plan
    width: int | None = None


@dataclass(frozen=True)
class Request:
    """What is needed of an ingredient for one batch: rows start … stop - 1 of one of its strands."""

    ingredient: int
    strand: int
    start: int
    stop: int


class Reading(NamedTuple):
    """A window of an ingredient, to be read."""

    ingredient: int
    window: Window


@dataclass(frozen=True)
class Share:
    """The batches that one worker takes of a stream: of the global batches first … last - 1 every `workers`-th, from the `rank`-th on."""

    rank: int
    workers: int
    first: int
    last: int

    @property
    def numbers(self) -> range:
        """Their global numbers."""
        return range(self.first + self.rank, self.last, self.workers)


@dataclass(frozen=True)
class Stream:
    """One stream of a run. Small and picklable: workers open the files themselves.

    Args:
        whole_batches: whether each batch comes from one ingredient (buckets of equal width), instead of each row.
    """

    ingredients: tuple[Ingredient, ...]
    mix: Mix
    batch_size: int
    left_out: dict[str, int]
    whole_batches: bool = False

    @property
    def lanes(self) -> int:
        """Of every ingredient."""
        return self.ingredients[0].plan.lanes

    @property
    def paths(self) -> list[str]:
        """The corpora."""
        return list(dict.fromkeys(ingredient.path for ingredient in self.ingredients))

    @property
    def rows(self) -> int:
        """Usable rows."""
        return sum(ingredient.plan.rows for ingredient in self.ingredients)

    def requests(self, number: int) -> list[Request]:
        """The rows of global batch `number`: batch number // lanes of lane number mod lanes."""
        index, lane = divmod(number, self.lanes)
        size = self.batch_size
        if self.whole_batches:
            owner = self.mix.owner(index)
            taken = int(self.mix.before(index)[owner])
            wanted = [(owner, taken * size, (taken + 1) * size)]
        else:
            starts, stops = self.mix.before(index * size), self.mix.before((index + 1) * size)
            wanted = [(owner, int(start), int(stop)) for owner, (start, stop) in enumerate(zip(starts, stops)) if stop > start]
        return [Request(owner, *part) for owner, start, stop in wanted for part in self.ingredients[owner].plan.of_strands(lane, start, stop)]

    def readings(self, share: Share) -> Iterator[Reading]:
        """What one worker reads for its share of the batches, in the order in which it is needed."""
        fetched: dict[tuple[int, int], int] = {}  # the first row of (ingredient, strand) that is not read
        for number in share.numbers:
            for request in self.requests(number):
                place = request.ingredient, request.strand
                at = max(fetched.get(place, 0), request.start)
                while at < request.stop:
                    window = self.ingredients[request.ingredient].plan.window(request.strand, at)
                    at += window.rows
                    yield Reading(request.ingredient, window)
                fetched[place] = at


def open_stream(corpora: Sequence[str], selection: Selection, *, batch_size: int, seed: int, workers: int = 1,
                weights: Mapping[str, float] | None = None, widths: Sequence[tuple[float, int]] = (), frames: Mapping[int, int] | None = None,
                lanes: int | None = None) -> Stream:
    """Count what a selection uses of one or several corpora.

    Args:
        weights: share of each source in every batch; sources without a weight are left out. None: every row counts the same.
        widths: buckets: (greatest width / height, pixels), the narrowest first; each batch comes from one of them. None: no buckets.
        frames: of a CTC decoder by the pixels of a bucket. None: those of the selection.
        lanes: of the run that is continued; None: those for `workers`.

    Raises:
        BadInput: no corpus there, no usable row, a weight for a source that is not there, or fewer usable rows than a batch needs.
    """
    opened = [Corpus.open(path) for path in corpora]
    selections = [(corpus, part) for corpus in opened for part in _by_source(corpus, selection, weights)]
    _check_weights(opened, weights)
    lanes, chosen, shares, left_out = lanes or lanes_for(workers), [], [], _without_weight(opened, weights)
    for corpus, part in selections:
        buckets, reasons = _counted(corpus, _buckets(part, widths, frames or {}), max(batch_size, lanes))
        left_out += reasons
        total = sum(sum(bucket.rows) for bucket in buckets)
        if weights and total < lanes:
            raise BadInput(f"the source {part.source} of {corpus.path} has a weight, so it needs at least {lanes} usable rows, found {total}; "
                           "take its weight away, or bring in more images")
        for bucket in buckets:
            chosen.append((corpus.path, bucket))
            shares.append(sum(bucket.rows) * (weights[part.source] / total if weights else 1))
    by_row = held_whole([sum(bucket.rows) for _, bucket in chosen])
    ingredients = [Ingredient(path, bucket.selection, Plan(bucket.rows, seed, lanes, whole), bucket.width)
                   for (path, bucket), whole in zip(chosen, by_row, strict=True)]
    left_out = Counter(dict(sorted(left_out.items())))  # equal counts in the order of the alphabet, wherever they came from
    used = sum(ingredient.plan.rows for ingredient in ingredients)
    if used < batch_size * workers:
        raise BadInput(_too_few(opened, used, left_out, batch_size, workers))
    return Stream(tuple(ingredients), Mix(shares), batch_size, dict(left_out.most_common()), bool(widths))


def _by_source(corpus: Corpus, selection: Selection, weights: Mapping[str, float] | None) -> list[Selection]:
    if weights is None:
        return [selection]
    return [replace(selection, source=name) for name in corpus.manifest.sources if name in weights]


def _check_weights(corpora: list[Corpus], weights: Mapping[str, float] | None) -> None:
    known = [name for corpus in corpora for name in corpus.manifest.sources]
    for name in weights or {}:
        if known.count(name) != 1:
            raise BadInput(f"weights: expected each source in one corpus, found {name!r} in {known.count(name)}; the sources are {', '.join(known)}")


def _without_weight(corpora: list[Corpus], weights: Mapping[str, float] | None) -> Counter:
    rows = sum(shard.rows for corpus in corpora for shard in corpus.manifest.shards if weights is not None and shard.source not in weights)
    return +Counter({"source without a weight": rows})


@dataclass(frozen=True)
class _Bucket:
    """Images of like shape that make batches of one width: which, how many in each row group, and filled up to which width in pixels."""

    selection: Selection
    width: int | None
    rows: tuple[int, ...] = ()


def _buckets(selection: Selection, widths: Sequence[tuple[float, int]], frames: Mapping[int, int]) -> list[_Bucket]:
    lows = [0.0, *(ratio for ratio, _ in widths)]
    buckets = [_Bucket(replace(selection, ratios=(low, ratio), frames=frames.get(width, selection.frames)), width)
               for low, (ratio, width) in zip(lows, widths)]
    return buckets or [_Bucket(selection, None)]


def _counted(corpus: Corpus, buckets: list[_Bucket], least: int) -> tuple[list[_Bucket], Counter]:
    """The buckets that have usable rows, each at least `least` of them where there are so many in all, and what is left out, by reason.

    What joins a wider bucket gets its frames, and more of its labels may fit into them: so it is counted again until nothing joins.
    """
    while True:
        counts, left_out = usable_rows(corpus, [bucket.selection for bucket in buckets])
        buckets = [replace(bucket, rows=tuple(rows)) for bucket, rows in zip(buckets, counts)]
        filled, empty = [bucket for bucket in buckets if sum(bucket.rows)], [bucket for bucket in buckets if not sum(bucket.rows)]
        merged = _merged(filled, least)
        if len(merged) == len(filled):
            return filled, left_out
        buckets = merged + empty


def _merged(buckets: list[_Bucket], least: int) -> list[_Bucket]:
    """Those with fewer than `least` rows joined to the next wider one, the widest to the one before it; without their counts."""
    merged: list[_Bucket] = []
    for bucket in buckets:
        if merged and (sum(merged[-1].rows) < least or (bucket is buckets[-1] and sum(bucket.rows) < least)):
            before = merged.pop()
            bucket = replace(bucket, selection=replace(bucket.selection, ratios=(before.selection.ratios[0], bucket.selection.ratios[1])),
                             rows=tuple(one + other for one, other in zip(before.rows, bucket.rows)))
        merged.append(bucket)
    return merged


def _too_few(corpora: list[Corpus], used: int, left_out: Counter, batch_size: int, workers: int) -> str:
    found = f"{', '.join(corpus.path for corpus in corpora)} has {sum(corpus.rows for corpus in corpora)} rows, of which {used} can be used"
    if left_out:
        found += " (" + ", ".join(f"{count} left out: {reason}" for reason, count in left_out.most_common()) + ")"
    return (f"a batch of {batch_size} images on each of {workers} workers needs at least {batch_size * workers} rows, but {found}; "
            "lower batch_size, or bring in more images")
