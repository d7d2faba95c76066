"""The variants of an experiment of `one_change.py`, what tells one from another, and the table of what is done."""

import hashlib
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any


def about_of(tree: dict[str, Any]) -> dict[str, Any]:
    """What all variants of an experiment have in common."""
    return {key: value for key, value in tree.items() if key not in ("variants", "fractions")}


def expanded(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The experiment with every variant at each of its `fractions` of the labels, and by variant the one that it is compared with."""
    variants, fractions = tree["variants"], tree.get("fractions")
    if fractions is None:
        return tree, dict.fromkeys(variants, next(iter(variants)))
    labels, first = {key: value for key, value in fractions.items() if key != "of"}, next(iter(variants))
    named = {(name, part): f"{name}, {100 * part:g} %" for part in fractions["of"] for name in variants}
    return ({**tree, "variants": {called: {"labels": {**labels, "fraction": part}, **variants[name]} for (name, part), called in named.items()}},
            {called: named[first, part] for (_, part), called in named.items()})


def digest(*parts: Any) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def merged(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The sections of both, an own field before a common one."""
    return {**common, **own} | {key: {**common[key], **own[key]} for key in common.keys() & own.keys()}


def lines(file: Path) -> list[dict[str, Any]]:
    """What is done; a last line that a kill cut short is not."""
    found = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in found if line.endswith("\n")]


def table(done: list[dict[str, Any]], wanted: dict[str, str], against: dict[str, str], cer: bool = False) -> str:
    """Markdown: each variant's words read over the seeds (or, with `cer`, its character error rate), its difference from the variant it is `against` seed by
    seed, what its readings are worth."""
    key = "cer" if cer else "accuracy"
    rows = {name: {line["seed"]: line for line in done if (line["variant"], line["digest"]) == (name, value)} for name, value in wanted.items()}
    rows = {name: found for name, found in rows.items() if found}
    if len(set(against.values())) == 1 and not rows.keys() & set(against.values()):  # the first variant was not asked for: the first that was is in its place
        against = dict.fromkeys(rows, next((name for name in rows if name != "base"), "base"))
    firsts = list(dict.fromkeys(against[name] for name in rows if against.get(name) in rows))
    searched = all("searched" in line for found in rows.values() for line in found.values())
    head = ["variant", "character error rate, %: mean" if cer else "words read, %: mean", "seeds", f"− {firsts[0]}" if len(firsts) == 1 else "− the first", "both ways up", *(["searched"] if searched else []),
            "read with ≥ 0.5 (right)", "≥ 0.9 (right)", "minutes"]
    text = "| " + " | ".join(head) + " |\n|" + "---|" * len(head) + "\n"
    for name, found in rows.items():
        values = [found[seed][key] for seed in sorted(found)]
        other = rows.get(against.get(name), {})
        gains = [found[seed][key] - other[seed][key] for seed in sorted(found) if seed in other]
        gain = f"{mean(gains):+.2f}" + (f" ± {stdev(gains):.2f}" if len(gains) > 1 else "") if gains and name not in firsts else ""
        kept = [" / ".join(f"{mean(values):.0f} %" for values in zip(*((line["unlabeled"]["kept"][floor][0], line["unlabeled"]["kept"][floor][1] or 0)
                                                                       for line in found.values()), strict=True)) for floor in ("0.5", "0.9")]
        cells = [name, f"{mean(values):.2f}", ", ".join(f"{value:.2f}" for value in values), gain,
                 f"{mean(line['both_ways_up'] for line in found.values()):.2f}",
                 *([f"{mean(line['searched']['all'] for line in found.values()):.2f}"] if searched else []), *kept,
                 f"{mean(line['minutes'] for line in found.values()):.1f}"]
        text += "| " + " | ".join(cells) + " |\n"
    return text
