"""Whether a run can work, in sentences, from the numbers that it has logged so far. Each tells what was seen and what could be done.

Self-training fails quietly: it keeps nothing and learns from labels alone, or keeps everything and drifts to one short word. The numbers behind the
sentences are explained in `models/objectives/signals.py`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

LAST = 5  # numbers logged one after the other, before anything is said of them
FALLEN, LOW = 0.2, 0.3  # an entropy has collapsed below this share of its start and below so many nats
APART, MUCH = 0.02, 0.2  # readings that agree less than the one while more than the other is kept
DIFFERENCE = 2.5  # points of word accuracy that validation words should be able to show

Numbers = Mapping[str, float]


def half_width(words: int) -> float:
    """The 95 % half-width of a word accuracy of 50 % on so many words, in points: 1.96 sqrt(0.25 / words)."""
    return 196 * math.sqrt(0.25 / words)


def words_for(difference: float) -> int:
    """The words whose half-width is `difference` points."""
    return math.ceil((196 * 0.5 / difference) ** 2)


def of_words(words: int) -> str | None:
    """Of so many validation words; None if they are enough."""
    if half_width(words) <= DIFFERENCE:
        return None
    return (f"{words:,} validation words know an accuracy of 50 % to ± {half_width(words):.1f} points only: a difference of {DIFFERENCE} points is "
            f"not seen, {words_for(DIFFERENCE):,} words could show it")


def prospects(lines: Sequence[Numbers], threshold: float | None = None) -> Iterator[tuple[str, str]]:
    """(subject, sentence) for all that speaks against a run now. A subject stays the same while its sentence changes with the numbers.

    Args:
        lines: what was logged, in order, `step` in each; lines without a number are passed over.
        threshold: objective.confidence_threshold, where the objective has one.
    """
    checks = {"kept": nothing_kept(lines, threshold), "apart": apart(lines),
              "lengths": collapsing(lines, "length_entropy", "lengths", threshold, ", unless all of these words have one length"),
              "characters": collapsing(lines, "character_entropy", "characters", threshold)}
    yield from ((subject, sentence) for subject, sentence in checks.items() if sentence)


def nothing_kept(lines: Sequence[Numbers], threshold: float | None) -> str | None:
    """No unlabeled word teaches."""
    last = _last(lines, "kept_fraction")
    if len(last) < LAST or any(line["kept_fraction"] > 0 for line in last):
        return None
    wanted = "" if threshold is None else f" and the threshold {threshold:g}"
    scores = [line["mean_score"] for line in last if "mean_score" in line]
    seen = f"; their mean score is {mean(scores):.3g}{wanted}" if scores else ""
    remedy = "start from a model that reads (initialize_from)" if threshold is None else \
        "lower objective.confidence_threshold, or start from a model that reads (initialize_from)"
    return f"no unlabeled image was kept in the {LAST} steps logged last ({_steps(last)}){seen}: nothing is learned from them; {remedy}"


def collapsing(lines: Sequence[Numbers], name: str, what: str, threshold: float | None, unless: str = "") -> str | None:
    """An entropy that was there and has gone."""
    found = [line for line in lines if name in line]
    first, last = found[:LAST], found[-LAST:]
    if len(found) < 2 * LAST:
        return None
    before, now = (mean(line[name] for line in part) for part in (first, last))
    if now >= LOW or now >= FALLEN * before:
        return None
    remedy = "" if threshold is None else "raise objective.confidence_threshold, "
    return (f"the {what} of what is read in unlabeled images collapse: their entropy fell from {before:.2f} nats to {now:.2f} ({_steps(last)}); a model "
            f"that learns from itself drifts to one short word{unless}: {remedy}lower objective.consistency_weight, or "
            "start from a model that reads (initialize_from)")


def apart(lines: Sequence[Numbers]) -> str | None:
    """Words are kept that the model itself does not read."""
    last = [line for line in _last(lines, "agreement") if "kept_fraction" in line]
    if len(last) < LAST or mean(line["agreement"] for line in last) >= APART or mean(line["kept_fraction"] for line in last) <= MUCH:
        return None
    return (f"{mean(line['kept_fraction'] for line in last):.0%} of the unlabeled images are kept, but what is read in their two views agrees "
            f"in {mean(line['agreement'] for line in last):.1%} ({_steps(last)}): the pseudo-labels are not learned; look at them in the run's report")


def _last(lines: Sequence[Numbers], name: str) -> list[Numbers]:
    """The last lines that hold a number, at most LAST."""
    found: list[Numbers] = []
    for line in reversed(lines):
        if len(found) == LAST:
            break
        found += [line] if name in line else []
    return found[::-1]


def _steps(lines: Sequence[Numbers]) -> str:
    return f"steps {lines[0]['step']:,} to {lines[-1]['step']:,}"
