"""One change at a time: train variants that differ in one field each from the same start, without Ray, and print one table.

    python benchmarks/one_change.py benchmarks/experiments/wires.yaml --seeds 0 1 2 [--only ccr fixmatch] [--table]

The corpora are decoded once, into memory. For every seed a base is trained on the labels alone; every variant goes on from it with its own
objective, for the same number of steps. What is done stands in a file of lines beside the bases, one for each variant and seed, so that the same
command goes on after a kill; `--table` prints what is there. The experiment's file:

    recognizer: {name: crnn_small, charset: "36", rule: "36"}
    labeled: {corpora: [corpora/scene], batch_size: 64}
    unlabeled: {corpora: [corpora/wires], part: [0.0, 0.5], batch_size: 48}    # of the hashes of the keys; by default all of them
    test: {wires: {corpora: [corpora/wires], part: [0.5, 1.0]}}
    base: {objective: {name: supervised}, training: {steps: 3000}, optimizer: {learning_rate: 2.0e-3}}
    common: {training: {steps: 1500}, optimizer: {learning_rate: 1.0e-3}}
    variants:
      supervised: {objective: {name: supervised}}
      ccr: {objective: {name: ccr, projection: residual}}

`base`, `common` and a variant hold sections of a recipe. A variant may mix further labels into its labeled batches, a share `of` each:
`labels: {corpora: …, part: …, count: 220, of: 0.3}` those of real words, the first 220 by the hashes of their keys; `self_labels: {confidence: 0.5,
of: 0.4, rounds: 2}` what the start reads in the unlabeled images with that confidence, in a second round what the first round's model reads, which
again begins at the start (Pseudo-Label; with rounds and strong views Noisy Student). The steps are those of each round. `upright: true` turns those
unlabeled images by 180 degrees, once, that the start reads more surely so.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from models.batch import Batch, Part
from models.recognizer import Recognizer
from models.recognizers import build
from pipelines.corpus.images import decode_into
from pipelines.corpus.reader import Corpus
from pipelines.evaluation.protocols import rule_of
from pipelines.reading.batches import evaluating, shape_of
from pipelines.training.loop import Hooks, Numerics, Schedule, build_optimizer, fit, one_cycle
from pipelines.training.recipe import Recipe, parse_recipe
from pipelines.training.worker import build_objective

CONFIDENCES = (0.5, 0.7, 0.9)  # at which the readings of unlabeled images are counted, and how many of them are right


@dataclass(frozen=True)
class Words:
    """Decoded images, (n, 3, height, width) uint8, and their labels ("" where there is none)."""

    images: Tensor
    texts: list[str]

    def __len__(self) -> int:
        return len(self.texts)


def place_of(key: str) -> float:
    """In [0, 1): where a hash of the key puts it."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def decoded(corpora: list[str], recognizer: Recognizer, part: tuple[float, float] = (0.0, 1.0), learnable: bool = False,
            count: int | None = None) -> Words:
    """The words of corpora whose keys' hashes lie in a part of [0, 1), or the first `count` of these; `learnable`: only those that the recognizer
    can learn to write."""
    shape, images, texts, places = shape_of(recognizer), [], [], []
    for corpus in corpora:
        for table in Corpus.open(corpus).rows_iter(("key", "image", "text")):
            for key, data, text in zip(table["key"].to_pylist(), table["image"].to_pylist(), table["text"].to_pylist(), strict=True):
                if not part[0] <= place_of(key) < part[1] or (learnable and recognizer.charset.fault(text, recognizer.max_length, frames=25)):
                    continue
                planes = np.empty((3, shape.height, shape.width), np.uint8)
                if decode_into(planes, data, shape):
                    images.append(torch.from_numpy(planes))
                    texts.append(recognizer.charset.normalise(text or ""))
                    places.append(place_of(key))
    if count is not None:
        chosen = sorted(range(len(places)), key=places.__getitem__)[:count]
        images, texts = [images[row] for row in chosen], [texts[row] for row in chosen]
    return Words(torch.stack(images), texts)


def batches(streams: dict[str, list[tuple[Words, int]]], seed: int) -> Iterator[Batch]:
    """For every part of a batch rows of its sources, so many of each, every source in an order of its own, epoch after epoch."""
    orders = {name: [_order(words, count, seed + 7919 * place) for place, (words, count) in enumerate(sources)] for name, sources in streams.items()}
    while True:
        parts = {}
        for name, sources in streams.items():
            rows = [(words, next(order)) for (words, _), order in zip(sources, orders[name], strict=True)]
            texts = [words.texts[row] for words, chosen in rows for row in chosen.tolist()]
            parts[name] = Part(torch.cat([words.images[chosen] for words, chosen in rows]), [""] * len(texts), texts if name == "labeled" else None)
        yield Batch(**parts)


def _order(words: Words, count: int, seed: int) -> Iterator[Tensor]:
    generator, left = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < count:
            left = torch.cat([left, torch.randperm(len(words), generator=generator)])
        yield left[:count]
        left = left[count:]


def readings(recognizer: Recognizer, words: Words, batch_size: int = 256) -> tuple[list[str], list[float]]:
    """What the recognizer reads, and how sure it is."""
    texts, confidences = [], []
    with evaluating(recognizer), torch.inference_mode():
        for images in words.images.split(batch_size):
            reading = recognizer.read(images.float() / 127.5 - 1)
            texts += reading.texts
            confidences += reading.confidences.tolist()
    return texts, confidences


def surer_ways(recognizer: Recognizer, words: Words) -> tuple[list[str], list[float], list[str], list[bool]]:
    """What is read as it stands and how surely, what is read upside down, and whether that is surer."""
    texts, confidences = readings(recognizer, words)
    turned, others = readings(recognizer, Words(words.images.flip(2, 3), words.texts))
    return texts, confidences, turned, [theirs > own for own, theirs in zip(confidences, others, strict=True)]


def upright(recognizer: Recognizer, words: Words) -> Words:
    """The words, those turned that the recognizer reads more surely upside down."""
    surer = torch.tensor(surer_ways(recognizer, words)[3]).view(-1, 1, 1, 1)
    return Words(torch.where(surer, words.images.flip(2, 3), words.images), words.texts)


def measure(recognizer: Recognizer, words: Words, rule_name: str) -> dict[str, Any]:
    """Words read, in per cent, as they stand and the surer of both ways up; and of the words that are read (as they stand) with a confidence of at
    least so much how many there are and how many are right."""
    rule = rule_of(rule_name, recognizer.charset)
    texts, confidences, turned, surer = surer_ways(recognizer, words)
    both = [other if better else text for text, other, better in zip(texts, turned, surer, strict=True)]
    right, right_of_both = ([rule.compared(text) == rule.compared(label) != "" for text, label in zip(read, words.texts, strict=True)]
                            for read in (texts, both))
    kept = {f"{floor:g}": [good for good, confidence in zip(right, confidences, strict=True) if confidence >= floor] for floor in CONFIDENCES}
    return {"accuracy": 100 * mean(right), "both_ways_up": 100 * mean(right_of_both), "words": len(words),
            "kept": {floor: [round(100 * len(found) / len(words), 1), round(100 * mean(found), 1) if found else None] for floor, found in kept.items()}}


@dataclass
class Experiment:
    """The file's content with the corpora in memory."""

    tree: dict[str, Any]
    folder: Path  # for bases and results

    def __post_init__(self) -> None:
        self.recognizer_options = self.tree["recognizer"]
        shaped = self.recognizer()
        self.rule = self.recipe({"objective": {"name": "supervised"}, "training": {"steps": 1}}, 0).recognizer.rule
        self.labeled = decoded(self.tree["labeled"]["corpora"], shaped, learnable=True)
        self.unlabeled = decoded(self.tree["unlabeled"]["corpora"], shaped, self.tree["unlabeled"].get("part", (0.0, 1.0)))
        self.tests = {name: decoded(entry["corpora"], shaped, entry.get("part", (0.0, 1.0))) for name, entry in self.tree["test"].items()}
        print(f"{len(self.labeled):,} labeled words, {len(self.unlabeled):,} unlabeled images, "
              + ", ".join(f"{name} {len(words):,} words" for name, words in self.tests.items()), file=sys.stderr)

    def recipe(self, sections: dict[str, Any], seed: int) -> Recipe:
        """The recipe that the sections of the file say."""
        return parse_recipe({"name": "one", "seed": seed, "recognizer": self.recognizer_options, "data": {}, **sections})

    def recognizer(self) -> Recognizer:
        """A new one."""
        recipe = self.recipe({"objective": {"name": "supervised"}, "training": {"steps": 1}}, 0)
        return build(recipe.recognizer.name, recipe.charset, **recipe.recognizer.options)

    def variant(self, name: str, seed: int, start: dict[str, Tensor]) -> tuple[Recognizer, dict[str, float]]:
        """The recognizer that a variant makes of the start, and the numbers of its last step."""
        sections = merged(self.tree["common"], self.tree["variants"][name])
        labels, own = sections.pop("labels", None), sections.pop("self_labels", None)
        unlabeled = upright(self.started(start), self.unlabeled) if sections.pop("upright", False) else self.unlabeled
        if own is None:
            more = labels and decoded(labels["corpora"], self.recognizer(), labels.get("part", (0.0, 1.0)), True, labels.get("count"))
            return self.trained(sections, seed, start, f"{name}, seed {seed}", more and (more, labels["of"]), unlabeled)
        teacher, numbers = self.started(start), {}
        for number in range(own.get("rounds", 1)):
            more = self.self_labeled(teacher, own["confidence"])
            teacher, numbers = self.trained(sections, seed, start, f"{name}, seed {seed}, round {number + 1}", (more, own["of"]))
        return teacher, numbers

    def self_labeled(self, teacher: Recognizer, confidence: float) -> Words:
        """The unlabeled images that a model reads so surely, with what it reads."""
        texts, confidences = readings(teacher, self.unlabeled)
        kept = [row for row, (text, sure) in enumerate(zip(texts, confidences, strict=True))
                if sure >= confidence and not teacher.charset.fault(text, teacher.max_length, frames=25)]
        return Words(self.unlabeled.images[kept], [texts[row] for row in kept])

    def started(self, start: dict[str, Tensor]) -> Recognizer:
        """A recognizer with the weights of the start."""
        recognizer = self.recognizer()
        recognizer.load_state_dict(start)
        return recognizer

    def trained(self, sections: dict[str, Any], seed: int, start: dict[str, Tensor] | None, about: str,
                more: tuple[Words, float] | None = None, unlabeled: Words | None = None) -> tuple[Recognizer, dict[str, float]]:
        """The recognizer that a recipe's sections make of the start, with `more` labels in a share of the batches; the numbers of the last step."""
        recipe = self.recipe(sections, seed)
        torch.manual_seed(seed)
        objective = self._objective(recipe, start)
        objective.to(memory_format=torch.channels_last)
        optimizer, rates = _optimizer(recipe, objective)
        streams, numbers, started = self._streams(objective.views, more, unlabeled or self.unlabeled), {}, time.monotonic()

        def log(step: int, found: dict[str, float]) -> None:
            numbers.update(found)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in found.items() if name not in ("gradient_norm", "learning_rate"))
            print(f"{about}: step {step} of {recipe.training.steps}, {time.monotonic() - started:.0f} s  {shown}", file=sys.stderr, flush=True)
        fit(objective, objective, optimizer, rates, batches(streams, seed), schedule=Schedule(recipe.training.steps, 250, None, 10**9),
            numerics=Numerics(gradient_clip=recipe.optimizer.gradient_clip), hooks=Hooks(log), seed=seed)
        return objective.recognizer, numbers

    def _objective(self, recipe: Recipe, start: dict[str, Tensor] | None) -> torch.nn.Module:
        from models.objectives import OBJECTIVES
        if start is None:
            return build_objective(recipe)
        recognizer = self.started(start)
        options = {name: value for name, value in recipe.objective.items() if name != "name"}
        return OBJECTIVES[recipe.objective["name"]](recognizer, **options)

    def _streams(self, views: dict[str, tuple], more: tuple[Words, float] | None, unlabeled: Words) -> dict[str, list[tuple[Words, int]]]:
        count = self.tree["labeled"]["batch_size"]
        share = round(count * more[1]) if more else 0
        labeled = [(self.labeled, count - share)] + ([(more[0], share)] if more else [])
        return {name: labeled if name == "labeled" else [(unlabeled, self.tree["unlabeled"]["batch_size"])] for name in views}

    def base(self, seed: int) -> dict[str, Tensor]:
        """The weights that a seed's variants start from, trained at the first call."""
        file = self.folder / f"base-{digest(self.recognizer_options, self.tree['labeled'], self.tree['base'])}-{seed}.pt"
        if not file.exists():
            recognizer, _ = self.trained(dict(self.tree["base"]), seed, None, f"base, seed {seed}")
            torch.save(recognizer.state_dict(), file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
        return torch.load(file, map_location="cpu")

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """The line of a variant and a seed; of the variant "base" the start itself."""
        start, started = self.base(seed), time.monotonic()
        recognizer, numbers = (self.started(start), {}) if name == "base" else self.variant(name, seed, start)
        if name != "base":
            torch.save(recognizer.state_dict(), self.folder / f"model-{self.digest(name)}-{seed}.pt")
        tests = {test: measure(recognizer, words, self.rule) for test, words in self.tests.items()}
        count = sum(test["words"] for test in tests.values())
        averages = {key: sum(test[key] * test["words"] for test in tests.values()) / count for key in ("accuracy", "both_ways_up")}
        return {"variant": name, "seed": seed, "digest": self.digest(name), **averages, "tests": tests,
                "unlabeled": measure(recognizer, self.unlabeled, self.rule), "numbers": numbers, "minutes": (time.monotonic() - started) / 60}

    def digest(self, name: str) -> str:
        """Of everything that decides a variant's result, the code aside."""
        about = {key: self.tree[key] for key in ("recognizer", "labeled", "unlabeled", "test", "base", "common")}
        return digest(about, {} if name == "base" else self.tree["variants"][name])


def _optimizer(recipe: Recipe, objective: torch.nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    options, parameters = recipe.optimizer, [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(parameters, name=options.name, learning_rate=options.learning_rate, weight_decay=options.weight_decay)
    rates = None if options.schedule == "constant" else one_cycle(
        optimizer, steps=recipe.training.steps, learning_rate=options.learning_rate, warmup_fraction=options.warmup_fraction,
        initial_division=options.initial_division, final_division=options.final_division)
    return optimizer, rates


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


def table(done: list[dict[str, Any]], wanted: dict[str, str]) -> str:
    """Markdown: each variant's words read over the seeds, its difference from the first variant seed by seed, what its readings are worth."""
    rows = {name: {line["seed"]: line for line in done if (line["variant"], line["digest"]) == (name, value)} for name, value in wanted.items()}
    rows = {name: found for name, found in rows.items() if found}
    first = next((name for name in rows if name != "base"), None)
    head = ["variant", "words read, %: mean", "seeds", "− " + str(first), "both ways up", "read with ≥ 0.5 (right)", "≥ 0.9 (right)", "minutes"]
    text = "| " + " | ".join(head) + " |\n|" + "---|" * len(head) + "\n"
    for name, found in rows.items():
        values = [found[seed]["accuracy"] for seed in sorted(found)]
        gains = [found[seed]["accuracy"] - rows[first][seed]["accuracy"] for seed in sorted(found) if first and seed in rows[first]]
        gain = f"{mean(gains):+.2f}" + (f" ± {stdev(gains):.2f}" if len(gains) > 1 else "") if gains and name not in (first, "base") else ""
        kept = [" / ".join(f"{mean(values):.0f} %" for values in zip(*((line["unlabeled"]["kept"][floor][0], line["unlabeled"]["kept"][floor][1] or 0)
                                                                       for line in found.values()), strict=True)) for floor in ("0.5", "0.9")]
        cells = [name, f"{mean(values):.2f}", ", ".join(f"{value:.2f}" for value in values), gain,
                 f"{mean(line['both_ways_up'] for line in found.values()):.2f}", *kept,
                 f"{mean(line['minutes'] for line in found.values()):.1f}"]
        text += "| " + " | ".join(cells) + " |\n"
    return text


def main() -> int:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", metavar="FILE.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="only these variants")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", default="one_change", help="for bases and results (default one_change)")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is done")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        tree = yaml.safe_load(Path(options.experiment).read_text(encoding="utf-8"))
    except OSError as problem:
        parser.error(f"expected an experiment's file, found none that can be read ({problem})")
    if unknown := set(options.only or ()) - {"base", *tree["variants"]}:
        parser.error(f"--only: expected variants of {options.experiment} or base, found {', '.join(sorted(unknown))}")
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / f"{Path(options.experiment).stem}.jsonl"
    names = [name for name in ("base", *tree["variants"]) if options.only is None or name in options.only]
    about = {key: tree[key] for key in ("recognizer", "labeled", "unlabeled", "test", "base", "common")}
    wanted = {name: digest(about, tree["variants"].get(name, {})) for name in ("base", *tree["variants"])}
    missing = [(name, seed) for seed in options.seeds for name in names
               if (name, seed, wanted[name]) not in {(line["variant"], line["seed"], line["digest"]) for line in lines(results)}]
    if missing and not options.table:
        experiment = Experiment(tree, folder)
        for name, seed in missing:
            line = experiment.run(name, seed)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name}, seed {seed}: {line['accuracy']:.2f} % in {line['minutes']:.1f} minutes", file=sys.stderr, flush=True)
    print(table(lines(results), wanted))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
