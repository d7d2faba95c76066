"""A model at work on labeled words, as a command line says that it reads."""

import argparse
from collections.abc import Sequence

import torch

from pipelines.evaluation.comparison import check_same_words
from pipelines.evaluation.measure import Result, evaluate_set, rule_on
from pipelines.evaluation.options import device_named
from pipelines.evaluation.protocols import Rule
from pipelines.ingestion.wordsets import WordSet
from pipelines.reading.searches import searches
from pipelines.reading.weights import find_model, in_full, load_recognizer, pinned, read_description, warn_of_decoder


class Measured:
    """A model by its name, with the options of `add_reading_arguments` and `options.add_options`.

    Raises:
        BadInput: no such model or device, or a search that it does not have.
    """

    def __init__(self, name: str, options: argparse.Namespace):
        self._options, self._device, self._name = options, device_named(options.device), pinned(name) if in_full(name).startswith("models:/") else name
        folder = find_model(self._name)
        self.recognizer, self.about = load_recognizer(folder).to(self._device), read_description(folder)
        warn_of_decoder(self.about, name)
        self._search_of = searches(self.recognizer, options)

    def facts(self, results: Sequence[Result]) -> list[tuple[str, str]]:
        """What its numbers come from, for people: (name, text) pairs."""
        options, height, width = self._options, self.recognizer.height, self.recognizer.width
        size = sum(parameter.numel() for parameter in self.recognizer.parameters())
        searched = list(dict.fromkeys(result.search for result in results if result.search))
        found = [("version", self._name.removeprefix("models:/") if self._name.startswith("models:/") else ""), ("parameters", f"{size:,}"),
                 ("image", f"{height} × {width} pixels"), ("decoding", "; ".join(searched) or "greedy"),
                 ("device", f"{torch.cuda.get_device_name(self._device) if self._device.type == 'cuda' else 'CPU'}, {options.precision}")]
        return [(name, text) for name, text in found if text]

    def rule(self, words: WordSet) -> Rule:
        """How its readings of a set are compared with the labels."""
        return rule_on(words, self.recognizer, self.about, self._options.rule)

    def read(self, words: WordSet, keep_worst: int = 0, rule: Rule | None = None) -> Result:
        """What it makes of a set, with the pictures of so many mistakes, compared by its own rule or another. Raises BadInput as `evaluate_set`."""
        precision = self._options.precision
        with torch.autocast(self._device.type, torch.bfloat16, enabled=precision == "bf16"):
            result = evaluate_set(self.recognizer, words, rule=rule or self.rule(words), batch_size=self._options.batch_size, keep_worst=keep_worst,
                                  found=self._search_of(words))
        if precision != "float32":
            result.notes.append(precision)
        return result


def read_beside(name: str, options: argparse.Namespace, model: Measured, results: Sequence[Result]) -> list[Result]:
    """What another model reads in the words of these results, compared by the same rules. Raises BadInput as `Measured`, and if the words have changed meanwhile."""
    other = Measured(name, options)
    found = [other.read(mine.words, rule=model.rule(mine.words)) for mine in results]
    for mine, theirs in zip(results, found, strict=True):
        check_same_words(mine, theirs)
    return found
