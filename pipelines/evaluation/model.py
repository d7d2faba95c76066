"""A model at work on labeled words, as a command line says that it reads."""

import argparse

import torch

from pipelines.evaluation.measure import Result, evaluate_set, rule_on
from pipelines.evaluation.options import device_named
from pipelines.evaluation.protocols import Rule
from pipelines.ingestion.wordsets import WordSet
from pipelines.reading.searches import searches
from pipelines.reading.weights import find_model, load_recognizer, read_description, warn_of_decoder


class Measured:
    """A model by its name, with the options of `add_reading_arguments` and `options.add_options`.

    Raises:
        BadInput: no such model or device, or a search that it does not have.
    """

    def __init__(self, name: str, options: argparse.Namespace):
        self._options, self._device, folder = options, device_named(options.device), find_model(name)
        self.recognizer, self.about = load_recognizer(folder).to(self._device), read_description(folder)
        warn_of_decoder(self.about, name)
        self._search_of = searches(self.recognizer, options)

    def rule(self, words: WordSet) -> Rule:
        """How its readings of a set are compared with the labels."""
        return rule_on(words, self.recognizer, self.about, self._options.rule)

    def read(self, words: WordSet) -> Result:
        """What it makes of a set. Raises BadInput as `evaluate_set`."""
        precision = self._options.precision
        with torch.autocast(self._device.type, torch.bfloat16, enabled=precision == "bf16"):
            result = evaluate_set(self.recognizer, words, rule=self.rule(words), batch_size=self._options.batch_size, found=self._search_of(words))
        if precision != "float32":
            result.notes.append(precision)
        return result
