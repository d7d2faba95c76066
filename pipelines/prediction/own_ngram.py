"""An n-gram of what a model itself reads: nobody knows the words of unlabeled images, but the model reads some of them surely.

It guides the beam that reads all of them anew: a 2 that could be a Z is read as what stands there in the other images.
"""

import csv
import hashlib
import io
import json
from argparse import Namespace
from dataclasses import replace

from models.decoding.ngram import Ngram, trained_on
from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.prediction.labeler import Manner
from pipelines.prediction.pipeline import Job, predict
from pipelines.prediction.tally import reaches

ORDERS = (5, 4, 3, 2)  # the first that fits into memory


def guided(job: Job, least: float) -> Manner:
    """The job's manner, its beam guided by the n-gram of what the model reads greedily in the job's sources with this confidence or more.

    The n-gram is a file beside the job's target, made once; what was read for it is kept until it is made, so that another `least` can be tried.

    Raises:
        BadInput: nothing is read so surely, or the target holds what was read in another manner.
    """
    search = {**vars(job.manner.search), "beam": None, "bcn": None}
    first = replace(job, manner=replace(job.manner, search=Namespace(**search)), least=None, overwrite=False)
    made_of = json.dumps(first.plan(), sort_keys=True)
    first = replace(first, target=f"{job.target}-first-{_digest(made_of)}.csv")
    file = f"{job.target}-own-{_digest(made_of, str(least))}.json"
    if storage.kind(file) is None:
        for begun in (job.target, f"{job.target}.readings"):
            if storage.kind(begun) is not None:
                raise BadInput(f"{begun}: expected what this model read, guided by its own readings of {least:g} and more, found what another model, "
                               "another confidence or another search left: choose another name, or remove it")
        if storage.kind(first.target) is None:
            predict(first)
        storage.write_bytes(file, _ngram(job, first.target, least).to_json())
    if storage.kind(first.target) is not None:
        storage.remove(first.target)
    return replace(job.manner, search=Namespace(**{**vars(job.manner.search), "ngram": file}))


def _ngram(job: Job, readings: str, least: float) -> Ngram:
    """Of the readings in a file with this confidence or more."""
    with storage.open_stream(readings) as file:
        rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
        words = [row["text"] for row in rows if row["text"].strip() and reaches(float(row["confidence"]), least)]
    if not words:
        raise BadInput(f"--own-ngram: expected words that {job.labeler.name} reads with a confidence of {least:g} or more, found none: lower it, or "
                       "leave it out")
    for order in ORDERS:
        try:
            return trained_on(words, job.labeler.recognizer.charset, order)
        except ValueError as problem:
            too_big = problem
    raise BadInput(f"--own-ngram: {too_big}")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
