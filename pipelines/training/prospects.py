"""Whether a run can work, in sentences, from the numbers that it has logged so far. Each tells what was seen and what could be done.

Self-training fails quietly: it keeps nothing and learns from labels alone, or keeps everything and drifts to one short word. The numbers behind the
sentences are explained in `models/objectives/signals.py`.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from pipelines.evaluation.protocols import Rule

LAST = 5  # numbers logged one after the other, before anything is said of them
FALLEN, LOW = 0.2, 0.3  # an entropy has collapsed below this share of its start and below so many nats
APART, MUCH = 0.02, 0.2  # readings that agree less than the one while more than the other is kept
WAITING = 0.2  # of the time, for images: above it their readers hold the training up
ALL_ALIKE = 2.0  # effective rank of the frames of a collapsed encoder
EARLY = 0.1  # of a run: what has not begun by then is said
STILL, SMALL = 0.98, 0.05  # a loss above the one share of its beginning has not fallen, unless it is below the other, and was when the run began
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


def of_labels(labels: Sequence[str], rule: Rule) -> str | None:
    """Of validation words of which the comparing rule leaves characters out; None if it compares all of them."""
    ignored = Counter(character for label in labels for character in set(label) if not rule.compared(character) and not character.isspace())
    touched = sum(any(character in ignored for character in label) for label in labels)
    if not touched:
        return None
    shown = " ".join(character for character, _ in ignored.most_common(12)) + (" …" if len(ignored) > 12 else "")
    how = "the recognizer's charset lacks" if rule.name == "charset" else f"the rule {rule.name} ignores"
    return (f"{touched:,} of {len(labels):,} validation words hold {shown} that {how}: they count as read without; choose another recognizer.charset"
            f"{'' if rule.name == 'charset' else ' or recognizer.rule'} if they matter")


def prospects(lines: Sequence[Numbers], threshold: float | None = None, steps: int = 0, fresh: bool = False) -> Iterator[tuple[str, str]]:
    """(subject, sentence) for all that speaks against a run now. A subject stays the same while its sentence changes with the numbers.

    Args:
        lines: what was logged, in order, `step` in each; lines without a number are passed over.
        threshold: objective.confidence_threshold, where the objective has one.
        steps: of the whole run; 0 where that is not known.
        fresh: whether it began from nothing: the loss of a model that reads already need not fall.
    """
    checks = {"kept": nothing_kept(lines, threshold), "apart": apart(lines),
              "lengths": collapsing(lines, "length_entropy", "lengths", threshold, ", unless all of these words have one length"),
              "characters": collapsing(lines, "character_entropy", "characters", threshold), "waiting": waiting(lines), "features": all_alike(lines),
              "loss": flat(lines, steps) if fresh else None, "accuracy": nothing_read(lines, steps)}
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


def waiting(lines: Sequence[Numbers]) -> str | None:
    """The readers of images are slower than the training."""
    last = _last(lines, "waiting_fraction")
    if len(last) < LAST or (share := mean(line["waiting_fraction"] for line in last)) <= WAITING:
        return None
    return (f"{share:.0%} of the time passes in waiting for images ({_steps(last)}): give their readers more CPUs (a lower training.cpus_per_worker or "
            "threads_per_worker leaves some), or faster storage")


def all_alike(lines: Sequence[Numbers]) -> str | None:
    """An encoder that learns from images alone says the same of every frame."""
    last = _last(lines, "unlabeled_effective_rank")[-1:]
    if not last or last[0]["unlabeled_effective_rank"] >= ALL_ALIKE:
        return None
    return (f"the encoder has collapsed: its frames have an effective rank of {last[0]['unlabeled_effective_rank']:.1f} at step {last[0]['step']:,}, so that "
            "all images look alike to it: lower optimizer.learning_rate, or begin anew under another name")


def flat(lines: Sequence[Numbers], steps: int) -> str | None:
    """Nothing is learned: a tenth of the run has passed, and the loss is where it was."""
    found = [line for line in lines if "loss" in line]
    first, last = found[:LAST], found[-LAST:]
    if not steps or len(found) < 2 * LAST or last[0]["step"] < steps * EARLY:
        return None
    before, now = (mean(line["loss"] for line in part) for part in (first, last))
    if now < before * STILL or now < SMALL:
        return None
    return (f"the loss does not fall: {before:.3g} at first, {now:.3g} now ({_steps(last)}): raise optimizer.learning_rate if it stands, lower it if it rises or "
            "jumps, and look whether labels and images belong together (textray describe)")


def nothing_read(lines: Sequence[Numbers], steps: int) -> str | None:
    """A tenth of the run has passed, and not one validation word is read."""
    last = _last(lines, "word_accuracy")[-1:]
    if not steps or not last or last[0]["word_accuracy"] > 0 or last[0]["step"] < steps * EARLY:
        return None
    words = f"{last[0]['validation_words']:,.0f} " if "validation_words" in last[0] else ""
    return (f"not one of the {words}validation words is read at step {last[0]['step']:,} of {steps:,}: a recognizer that begins from nothing may need longer; "
            "if that stays so, raise optimizer.learning_rate, train longer, start from a model that reads (initialize_from), or look whether the charset has "
            "the labels' characters")


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
