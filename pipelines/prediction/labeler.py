"""The model that reads, and how: what decides a reading, and what identifies whoever made it."""

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.decoders.decoded import Reading
from models.recognizer import Recognizer
from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.evaluation.protocols import RULE_NAMES, Rule, rule_of
from pipelines.ingestion.sources.row import Row
from pipelines.reading.batches import Read, evaluating, read_stream
from pipelines.reading.searches import Item, search_of
from pipelines.reading.weights import find_model, load_recognizer, pinned, read_description, warn_of_decoder

SEARCH = ("beam", "ngram", "ngram_weight", "bcn", "bcn_weight", "lexicon", "both_ways_up")  # the options of options.add_options


@dataclass(frozen=True)
class Manner:
    """How a model reads: all that changes readings beside the model itself."""

    batch_size: int  # images at a time
    precision: str  # "float32" or "bf16"
    search: argparse.Namespace  # the options of `options.add_options`, files by their whole names

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Manner":
        """From a command line. BadInput for what cannot be meant."""
        if options.batch_size < 1:
            raise BadInput(f"--batch-size: expected at least 1, found {options.batch_size}")
        search = {name: getattr(options, name) for name in SEARCH}
        if search["lexicon"] and (search["lexicon"] == "full" or search["lexicon"].isdecimal()):
            raise BadInput(f"--lexicon: expected a file of words, found {search['lexicon']!r}, which takes words from labels: an image without "
                           "a label has none, name a file")
        for name in ("ngram", "lexicon"):
            search[name] = search[name] and storage.absolute(search[name])
        return cls(options.batch_size, options.precision, argparse.Namespace(**search))

    def described(self) -> dict[str, Any]:
        """Its options and the content of its files, as JSON: a file that lies elsewhere is the same file."""
        files = {name: getattr(self.search, name) for name in ("ngram", "lexicon") if getattr(self.search, name)}
        files = {name: file.rstrip("/").rpartition("/")[2] for name, file in files.items()} | {
            f"{name}_sha256": hashlib.sha256(storage.read_bytes(file)).hexdigest() for name, file in files.items()}
        bcn = {"bcn_sha256": read_description(find_model(self.search.bcn))["weights_sha256"]} if self.search.bcn else {}
        return {"batch_size": self.batch_size, "precision": self.precision, **vars(self.search), **files, **bcn}


@dataclass(frozen=True)
class Labeler:
    """A model with its name. Pickles whole, so that workers need no file of it."""

    name: str  # models:/words/3 of a registered model, else RUN@ and the first digits of its weights' sha256
    recognizer: Recognizer  # on the CPU
    about: dict[str, Any]  # its description

    @classmethod
    def open(cls, where: str) -> "Labeler":
        """The model of a run, of a folder, or of the registry. BadInput if there is none."""
        exact = pinned(where)
        folder = find_model(exact)
        about = read_description(folder)
        warn_of_decoder(about, where)
        name = exact if exact.startswith("models:/") else f"{about.get('run') or about['name']}@{about['weights_sha256'][:12]}"
        return cls(name, load_recognizer(folder), about)

    def described(self) -> dict[str, Any]:
        """What its readings depend on, as JSON."""
        return {"labeler": self.name, "weights_sha256": self.about["weights_sha256"], "temperature": self.recognizer.temperature}

    @property
    def rule(self) -> Rule:
        """How its readings are compared with labels: the model's own rule, as in `textray evaluate`."""
        own = self.about.get("rule", "charset")
        return rule_of(own if own in RULE_NAMES else "charset", self.recognizer.charset)


class Reader:
    """A labeler at work on a device."""

    def __init__(self, labeler: Labeler, manner: Manner, device: torch.device):
        self.labeler, self.rule = labeler, labeler.rule
        self._recognizer, self._batch_size = labeler.recognizer.to(device), manner.batch_size
        found = search_of(self._recognizer, manner.search).search or (lambda images, _: self._recognizer.read(images))

        def search(images: Tensor, items: list[Item]) -> Reading:
            with torch.autocast(device.type, torch.bfloat16, enabled=manner.precision == "bf16"):
                return found(images, items)

        self._search = search

    def read(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Read]]:
        """Each row with what is read from its image. Where there is none, the problem is the source's own word for it."""
        with evaluating(self._recognizer):
            for row, read in read_stream(self._recognizer, rows, lambda row: row.image, batch_size=self._batch_size, search=self._search):
                yield row, read._replace(problem=row.problem or read.problem) if row.image is None else read
