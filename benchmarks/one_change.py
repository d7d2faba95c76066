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

`base`, `common` and a variant hold sections of a recipe. `bf16: true` trains in bfloat16. A variant may add further labels to its labeled batches, in
each as many as there are unlabeled images in a batch of the others:

    labels: {corpora: …, part: …, count: 220}       those of real words, the first 220 by the hashes of their keys
    self_labels: {confidence: 0.5, rounds: 2}       what the start reads in the unlabeled images with that confidence, in a second round
        what the first round's model reads, which again begins at the start (Pseudo-Label, Noisy Student). The steps are those of each round.
        search: {lexicon: FILE}     they are read as `textray predict --lexicon FILE` reads; other options likewise (both_ways_up turns the images)
        own_ngram: 0.5              the beam is guided by the n-gram of what the model itself reads so surely, as `textray self-train --own-ngram`
    first: {objective: …, training: …}      a stage before it, from which it goes on, or a list of them, each with `labels` of its own if it has any:
                                            what several variants begin with is trained once
    upright: true                   turns those unlabeled images by 180 degrees, once, that the start reads more surely so

Both together are drawn from as one. `read: {beam: 10, ngram: FILE}` or `read: {beam: 10, own_ngram: 0.5}`, beside `test`, measures the test words
also as these options read them.

Without `base` every variant begins with new weights; without `labeled: corpora` its only labels are its own. So an experiment asks what pretraining
is worth at fractions of the labels:

    labeled: {batch_size: 64}
    fractions: {corpora: [corpora/wires], part: [0.0, 0.5], of: [0.05, 1.0]}        every variant at 5 % and at all of these labels, by the hashes
                                                                                    of their keys, beside the first variant at the same

`table: cer` prints character error rates in place of words read.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from variants import about_of, digest, expanded, lines, merged, table

from models.batch import Batch, Part
from models.costs import frames
from models.decoding.ngram import trained_on
from models.objectives import objective_named
from models.recognizer import Recognizer
from models.recognizers import build
from pipelines.corpus.images import decode_into
from pipelines.corpus.reader import Corpus
from pipelines.evaluation.metrics import edit_distance
from pipelines.evaluation.protocols import rule_of
from pipelines.reading.batches import evaluating, shape_of
from pipelines.reading.searches import search_of
from pipelines.training.loop import Hooks, Numerics, Schedule, build_optimizer, fit, one_cycle
from pipelines.training.recipe import Recipe, parse_recipe

SEARCH = {"beam": None, "ngram": None, "ngram_weight": 0.3, "bcn": None, "bcn_weight": 0.3, "lexicon": None, "both_ways_up": False}
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


def frames_of(recognizer: Recognizer) -> int | None:
    """That a CTC decoder has for the characters of a text; None for others."""
    return frames(recognizer) if recognizer.decoder.kind == "ctc" else None


def decoded(corpora: list[str], recognizer: Recognizer, part: tuple[float, float] = (0.0, 1.0), learnable: bool = False,
            count: int | None = None, fraction: float | None = None) -> Words:
    """The words of corpora whose keys' hashes lie in a part of [0, 1), or the first `count` of these, or the first `fraction`; `learnable`: only those
    that the recognizer can learn to write."""
    shape, images, texts, places = shape_of(recognizer), [], [], []
    room = frames_of(recognizer)
    for corpus in corpora:
        for table in Corpus.open(corpus).rows_iter(("key", "image", "text")):
            for key, data, text in zip(table["key"].to_pylist(), table["image"].to_pylist(), table["text"].to_pylist(), strict=True):
                if not part[0] <= place_of(key) < part[1] or (learnable and recognizer.charset.fault(text, recognizer.max_length, room)):
                    continue
                planes = np.empty((3, shape.height, shape.width), np.uint8)
                if decode_into(planes, data, shape):
                    images.append(torch.from_numpy(planes))
                    texts.append(recognizer.charset.normalise(text or ""))
                    places.append(place_of(key))
    if fraction is not None:
        count = max(1, round(fraction * len(places)))
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


def readings(recognizer: Recognizer, words: Words, batch_size: int = 256, **search: Any) -> tuple[list[str], list[float], list[bool]]:
    """What the recognizer reads, how sure it is, and which images it read upside down; `search`: options of `textray predict`."""
    texts, confidences, turned = [], [], []
    found = search_of(recognizer, argparse.Namespace(**{**SEARCH, **search})).search or (lambda images, _: recognizer.read(images))
    with evaluating(recognizer), torch.inference_mode():
        for images in words.images.split(batch_size):
            reading = found(images.float() / 127.5 - 1, [])
            texts += reading.texts
            confidences += reading.confidences.tolist()
            turned += reading.upside_down or [False] * len(images)
    return texts, confidences, turned


def upright(words: Words, turned: list[bool]) -> Words:
    """The words, some of them turned by 180 degrees."""
    return Words(torch.where(torch.tensor(turned).view(-1, 1, 1, 1), words.images.flip(2, 3), words.images), words.texts)


def measure(recognizer: Recognizer, words: Words, rule_name: str) -> dict[str, Any]:
    """Words read, in per cent, as they stand and the surer of both ways up; and of the words that are read (as they stand) with a confidence of at
    least so much how many there are and how many are right."""
    rule = rule_of(rule_name, recognizer.charset)
    texts, confidences, _ = readings(recognizer, words)
    both, _, _ = readings(recognizer, words, both_ways_up=True)
    right, right_of_both = ([rule.compared(text) == rule.compared(label) != "" for text, label in zip(read, words.texts, strict=True)]
                            for read in (texts, both))
    kept = {f"{floor:g}": [good for good, confidence in zip(right, confidences, strict=True) if confidence >= floor] for floor in CONFIDENCES}
    shares = {floor: [round(100 * len(found) / len(words), 1), round(100 * mean(found), 1) if found else None] for floor, found in kept.items()}
    pairs = [(rule.compared(text), rule.compared(label)) for text, label in zip(texts, words.texts, strict=True)]
    errors = 100 * sum(edit_distance(*pair) for pair in pairs) / max(1, sum(len(label) for _, label in pairs))
    return {"accuracy": 100 * mean(right), "cer": errors, "both_ways_up": 100 * mean(right_of_both), "words": len(words), "kept": shares}


@dataclass
class Experiment:
    """The file's content with the corpora in memory."""

    tree: dict[str, Any]
    folder: Path  # for bases and results

    def __post_init__(self) -> None:
        self.recognizer_options = self.tree["recognizer"]
        shaped = self.recognizer()
        self.rule = self.recipe({"objective": {"name": "supervised"}, "training": {"steps": 1}}, 0).recognizer.rule
        self.labeled = decoded(self.tree["labeled"]["corpora"], shaped, learnable=True) if "corpora" in self.tree["labeled"] else None
        self.unlabeled = decoded(self.tree["unlabeled"]["corpora"], shaped, self.tree["unlabeled"].get("part", (0.0, 1.0)))
        self.tests = {name: decoded(entry["corpora"], shaped, entry.get("part", (0.0, 1.0))) for name, entry in self.tree["test"].items()}
        print(f"{len(self.labeled or ()):,} labeled words, {len(self.unlabeled):,} unlabeled images, "
              + ", ".join(f"{name} {len(words):,} words" for name, words in self.tests.items()), file=sys.stderr)

    def recipe(self, sections: dict[str, Any], seed: int) -> Recipe:
        """The recipe that the sections of the file say."""
        return parse_recipe({"name": "one", "seed": seed, "recognizer": self.recognizer_options, "data": {}, **sections})

    def recognizer(self) -> Recognizer:
        """A new one."""
        recipe = self.recipe({"objective": {"name": "supervised"}, "training": {"steps": 1}}, 0)
        return build(recipe.recognizer.name, recipe.charset, **recipe.recognizer.options)

    def given(self, labels: dict[str, Any] | None) -> Words | None:
        """The words that `labels` names."""
        return labels and decoded(labels["corpora"], self.recognizer(), labels.get("part", (0.0, 1.0)), True, labels.get("count"), labels.get("fraction"))

    def variant(self, name: str, seed: int, start: dict[str, Tensor] | None) -> tuple[Recognizer, dict[str, float]]:
        """The recognizer that a variant makes of the start, and the numbers of its last step."""
        sections = merged(self.tree["common"], self.tree["variants"][name])
        labels, own = sections.pop("labels", None), sections.pop("self_labels", None)
        if "first" in sections:
            start = self.first(stages_of(self.tree, sections), seed, start)
            sections.pop("first")
        unlabeled = self.unlabeled
        if sections.pop("upright", False):
            unlabeled = upright(unlabeled, readings(self.started(start), unlabeled, both_ways_up=True)[2])
        given = self.given(labels)
        if own is None:
            return self.trained(sections, seed, start, f"{name}, seed {seed}", given, unlabeled)
        teacher, numbers = self.started(start), {}
        for number in range(own.get("rounds", 1)):
            found = self.self_labeled(teacher, own["confidence"], own.get("search", {}), own.get("own_ngram"))
            more = Words(torch.cat([given.images, found.images]), given.texts + found.texts) if given else found
            teacher, numbers = self.trained(sections, seed, start, f"{name}, seed {seed}, round {number + 1}", more, unlabeled)
        return teacher, numbers

    def self_labeled(self, teacher: Recognizer, confidence: float, search: dict[str, Any], own_ngram: float | None) -> Words:
        """The unlabeled images that a model reads so surely, with what it reads."""
        texts, confidences, turned = readings(teacher, self.unlabeled, **self.guided(teacher, search, own_ngram))
        images = upright(self.unlabeled, turned).images
        room = frames_of(teacher)
        kept = [row for row, (text, sure) in enumerate(zip(texts, confidences, strict=True))
                if sure >= confidence and not teacher.charset.fault(text, teacher.max_length, room)]
        rule = rule_of(self.rule, teacher.charset)
        right = mean(rule.compared(texts[row]) == rule.compared(self.unlabeled.texts[row]) for row in kept)
        print(f"{len(kept):,} pseudo-labels of {len(texts):,} images, {100 * right:.1f} % right", file=sys.stderr)
        return Words(images[kept], [texts[row] for row in kept])

    def guided(self, recognizer: Recognizer, search: dict[str, Any], own_ngram: float | None) -> dict[str, Any]:
        """The search, with the n-gram of what the recognizer reads in the unlabeled images with a confidence of `own_ngram` or more."""
        if own_ngram is None:
            return search
        first, sure, _ = readings(recognizer, self.unlabeled, both_ways_up=search.get("both_ways_up", False))
        file = self.folder / f"own-ngram-{os.getpid()}.json"
        trained_on([text for text, each in zip(first, sure, strict=True) if text and each >= own_ngram], recognizer.charset).save(file)
        return {**search, "ngram": str(file)}

    def searched(self, recognizer: Recognizer) -> dict[str, float]:
        """Words of each test set read as the experiment's `read` says, in per cent, and of all words."""
        own, rule = dict(self.tree["read"]), rule_of(self.rule, recognizer.charset)
        search = self.guided(recognizer, own, own.pop("own_ngram", None))
        texts = {name: readings(recognizer, words, **search)[0] for name, words in self.tests.items()}
        right = {name: [rule.compared(text) == rule.compared(label) != "" for text, label in zip(texts[name], words.texts, strict=True)]
                 for name, words in self.tests.items()}
        return {**{name: 100 * mean(found) for name, found in right.items()}, "all": 100 * mean(sum(right.values(), []))}

    def started(self, start: dict[str, Tensor]) -> Recognizer:
        """A recognizer with the weights of the start."""
        recognizer = self.recognizer()
        recognizer.load_state_dict(start)
        return recognizer

    def trained(self, sections: dict[str, Any], seed: int, start: dict[str, Tensor] | None, about: str,
                more: Words | None = None, unlabeled: Words | None = None) -> tuple[Recognizer, dict[str, float]]:
        """The recognizer that a recipe's sections make of the start, with `more` labels beside the others; the numbers of the last step."""
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
            numerics=Numerics(bf16=self.tree.get("bf16", False), gradient_clip=recipe.optimizer.gradient_clip), hooks=Hooks(log), seed=seed)
        return objective.recognizer, numbers

    def _objective(self, recipe: Recipe, start: dict[str, Tensor] | None) -> torch.nn.Module:
        recognizer = self.recognizer()
        if start is not None:
            fresh = recipe.training.freeze is not None
            recognizer.load_state_dict({**start, **{key: value for key, value in recognizer.state_dict().items() if fresh and key.startswith("decoder.")}})
        if recipe.training.freeze is not None:
            recognizer.freeze()
        options = {name: value for name, value in recipe.objective.items() if name != "name"}
        return objective_named(recipe.objective["name"])(recognizer, **options)

    def _streams(self, views: dict[str, tuple], more: Words | None, unlabeled: Words) -> dict[str, list[tuple[Words, int]]]:
        count, further = self.tree["labeled"]["batch_size"], self.tree["unlabeled"]["batch_size"]
        labeled = [(self.labeled, count)] + ([(more, further)] if more else []) if self.labeled else [(more, count)]
        return {name: labeled if name == "labeled" else [(unlabeled, further)] for name in views}

    def kept(self, name: str, make: Callable[[], Recognizer]) -> dict[str, Tensor]:
        """The weights of the file of that name, made if it is not there."""
        file = self.folder / name
        if not file.exists():
            torch.save(make().state_dict(), file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
        return torch.load(file, map_location="cpu")

    def base(self, seed: int) -> dict[str, Tensor] | None:
        """The weights that a seed's variants start from, trained at the first call."""
        if "base" not in self.tree:
            return None
        made_of = (self.recognizer_options, self.tree["labeled"], self.tree["base"], self.tree.get("bf16", False))
        return self.kept(f"base-{digest(*made_of)}-{seed}.pt", lambda: self.trained(dict(self.tree["base"]), seed, None, f"base, seed {seed}")[0])

    def first(self, stages: list[dict[str, Any]], seed: int, start: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """The weights after stages that variants begin with, each trained at the first call."""
        if not stages:
            return start

        def make() -> Recognizer:
            sections = dict(stages[-1])
            labels = self.given(sections.pop("labels", None))
            return self.trained(sections, seed, self.first(stages[:-1], seed, start), f"first stage {len(stages)}, seed {seed}", labels)[0]
        return self.kept(self.first_file(stages, seed), make)

    def first_file(self, stages: list[dict[str, Any]], seed: int) -> str:
        """The name of the file that holds the weights after such stages."""
        return f"first-{digest(about_of(self.tree), *stages)}-{seed}.pt"

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """The line of a variant and a seed; of the variant "base" the start itself."""
        start, started = self.base(seed), time.monotonic()
        recognizer, numbers = (self.started(start), {}) if name == "base" else self.variant(name, seed, start)
        if name != "base":
            torch.save(recognizer.state_dict(), self.folder / f"model-{self.digest(name)}-{seed}.pt")
        tests = {test: measure(recognizer, words, self.rule) for test, words in self.tests.items()}
        count = sum(test["words"] for test in tests.values())
        averages = {key: sum(test[key] * test["words"] for test in tests.values()) / count for key in ("accuracy", "cer", "both_ways_up")}
        searched = {"searched": self.searched(recognizer)} if "read" in self.tree else {}
        return {"variant": name, "seed": seed, "digest": self.digest(name), **averages, "tests": tests, **searched,
                "unlabeled": measure(recognizer, self.unlabeled, self.rule), "numbers": numbers, "minutes": (time.monotonic() - started) / 60}

    def digest(self, name: str) -> str:
        """Of everything that decides a variant's result, the code aside."""
        about = about_of(self.tree)
        return digest(about, {} if name == "base" else self.tree["variants"][name])


def stages_of(tree: dict[str, Any], sections: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages with which a variant begins, one or a list of them, each with what all have in common."""
    first = sections["first"]
    return [merged(tree["common"], stage) for stage in (first if isinstance(first, list) else [first])]


def _optimizer(recipe: Recipe, objective: torch.nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    options, parameters = recipe.optimizer, [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(parameters, name=options.name, learning_rate=options.learning_rate, weight_decay=options.weight_decay)
    rates = None if options.schedule == "constant" else one_cycle(
        optimizer, steps=recipe.training.steps, learning_rate=options.learning_rate, warmup_fraction=options.warmup_fraction,
        initial_division=options.initial_division, final_division=options.final_division)
    return optimizer, rates


def main() -> int:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", metavar="FILE.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="only these variants, at all fractions or one ('seqclr', 'seqclr, 5 %%')")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", default="one_change", help="for bases and results (default one_change)")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is done")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        tree, against = expanded(yaml.safe_load(Path(options.experiment).read_text(encoding="utf-8")))
    except OSError as problem:
        parser.error(f"expected an experiment's file, found none that can be read ({problem})")
    base = ["base"] if "base" in tree else []
    at = tree.get("fractions", {}).get("of", [])
    options.only = options.only and [called for name in options.only for called in ([f"{name}, {100 * part:g} %" for part in at if f"{name}, {100 * part:g} %" in tree["variants"]] or [name])]
    if unknown := set(options.only or ()) - {*base, *tree["variants"]}:
        parser.error(f"--only: expected variants of {options.experiment} or base, found {', '.join(sorted(unknown))}")
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / f"{Path(options.experiment).stem}.jsonl"
    names = [name for name in (*base, *tree["variants"]) if options.only is None or name in options.only]
    about = about_of(tree)
    wanted = {name: digest(about, tree["variants"].get(name, {})) for name in (*base, *tree["variants"])}
    missing = [(name, seed) for seed in options.seeds for name in names
               if (name, seed, wanted[name]) not in {(line["variant"], line["seed"], line["digest"]) for line in lines(results)}]
    if missing and not options.table:
        experiment = Experiment(tree, folder)
        for name, seed in missing:
            line = experiment.run(name, seed)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name}, seed {seed}: {line['accuracy']:.2f} % in {line['minutes']:.1f} minutes", file=sys.stderr, flush=True)
    print(table(lines(results), wanted, against, tree.get("table") == "cer"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
