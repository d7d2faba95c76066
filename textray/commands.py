"""Commands of `textray` as functions: the same names, arguments and defaults, and what they make as values."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pipelines.progress import quietly

if TYPE_CHECKING:
    from pipelines.corpus.reader import Corpus
    from pipelines.evaluation.metrics import Score
    from pipelines.prediction.pipeline import Prediction
    from pipelines.training.driver import Outcome

Place = str | os.PathLike[str]  # a path or a URI


def ingest(*sources: Place, out: Place, max_errors: float = 0.01, min_side: int = 4, max_aspect: float = 40.0, min_contrast: int = 8, unicode: str = "NFC",
           duplicates: Literal["keep", "exact", "near"] = "keep", guard: Sequence[str] = (), max_length: int = 0, rows_per_shard: int = 100_000,
           rows_per_group: int = 1000, labels: str | None = None,
           only: Literal["labeled", "unlabeled"] | None = None, allow_holes: bool = False, image_column: str | None = None, text_column: str | None = None, vertical: bool = False,
           overwrite: bool = False, quiet: bool = False) -> "Corpus":
    """Bring images (PATH, NAME=PATH or [NAME=]FORMAT:PATH each) into a new corpus, and open it.

    Raises:
        BadInput: a source cannot be opened, too many of its rows are unusable, or nothing is kept.
    """
    from pipelines.ingestion import pipeline
    from pipelines.ingestion.chunks import Options
    from pipelines.ingestion.sources.row import ReadOptions
    options = Options(min_side=min_side, max_aspect=max_aspect, min_contrast=min_contrast, duplicates=duplicates, unicode=unicode,
                      max_length=max_length, only=only, rows_per_shard=rows_per_shard, rows_per_group=rows_per_group)
    with quietly(quiet):
        return pipeline.ingest([os.fspath(source) for source in sources], out, options, max_errors=max_errors, guard=guard, overwrite=overwrite,
                               reading=ReadOptions(allow_holes, image_column, text_column, vertical, labels))


def split(corpus: Place, *, validation: float = 0.1, test: float = 0.1, seed: int = 0, together: Literal["near", "exact", "none"] = "near",
          out: Place | None = None, overwrite: bool = False, quiet: bool = False) -> "dict[str, Corpus]":
    """Cut a corpus into parts to train, to validate and to test on, and open them: by their names, at OUT-train, OUT-validation, OUT-test.

    Raises:
        BadInput: shares that leave nothing to train on, a part that would be empty, or a place that is taken.
    """
    from pipelines.corpus.reader import Corpus
    from pipelines.ingestion.brought import brought_in
    from pipelines.ingestion.split import Split, checked
    from pipelines.ingestion.split import split as cut
    with quietly(quiet):
        return cut(Corpus.open(brought_in(os.fspath(corpus))), os.fspath(out or corpus).rstrip("/"), checked(Split(validation, test, seed, together)), overwrite)


def render(out: Place, n: int = 100_000, *, seed: int = 0, style: str = "scene", charset: str = "94", max_length: int = 25, words: str | None = None,
           pattern: str | None = None, fonts: str | None = None, source: str = "", overwrite: bool = False,
           quiet: bool = False) -> "Corpus":
    """Draw a corpus of labeled words, and open it.

    Args:
        n: how many.
        words: a file of lines to draw as they stand; by default English words and numbers.
        pattern: a regular expression of codes to draw in their place.
        fonts: a folder of .ttf and .otf files; by default the packaged ones.

    Raises:
        BadInput: settings that cannot be met, or a place that is taken.
    """
    from pipelines.synthesis.corpus import Settings, render_corpus
    with quietly(quiet):
        return render_corpus(out, n, Settings(style, seed, charset, max_length, words, fonts, pattern), source, overwrite)


def train(recipe: "Place | Mapping[str, Any]", *overrides: str, resume: bool = False, quiet: bool = False) -> "Outcome":
    """Train what a recipe describes, or go on where it was killed: `textray pretrain` and `textray finetune` in one.

    Args:
        recipe: a file of YAML, or the same as nested dictionaries.
        overrides: fields to change, such as "training.steps=100".
        resume: go on with the run of this name, whatever its state; a killed one goes on anyway.
        quiet: show no progress and no warnings, as with every function here.

    Returns:
        What it left behind: `place` (its folder), `model`, `metrics`.

    Raises:
        BadInput: the recipe cannot be trained, or training met a loss that is not finite.
    """
    from pipelines.training.recipe import load_recipe, overridden, parse_recipe
    read = parse_recipe(overridden(recipe, overrides)) if isinstance(recipe, Mapping) else load_recipe(os.fspath(recipe), list(overrides))
    from pipelines.training import driver
    from pipelines.training.corpora import with_corpora
    with quietly(quiet):
        return driver.train(with_corpora(read), resume=resume)


pretrain = finetune = train


def evaluate(model: Place, data: "Mapping[str, Place] | Sequence[str]", *, batch_size: int = 256, rule: str | None = None, device: str | None = None,
             precision: Literal["float32", "bf16"] = "float32", beam: int | None = None, ngram: str | None = None, ngram_weight: float = 0.3,
             bcn: str | None = None, bcn_weight: float = 0.3, lexicon: str | None = None, both_ways_up: bool = False,
             beside: Place | None = None, track: bool = False, out: Place | None = None, quiet: bool = False) -> "dict[str, Score]":
    """Measure a model on labeled words: a score for each set, with `words`, `accuracy`, `interval`, `one_minus_ned`, `cer`.

    Args:
        data: sets by name, or NAME=PATH and PATH as the command takes them.
        beside: with `out`: another model, for the report's page.
        track: with `out`: record the evaluation in MLflow, below the run that trained the model.
        out: a folder for the command's report; by default there is none.

    Raises:
        BadInput: no such model, set or device, or a search that the model does not have.
    """
    import argparse

    from pipelines.evaluation.model import Measured, read_beside
    from pipelines.evaluation.options import check_batch_size
    from pipelines.ingestion.wordsets import open_sets
    from pipelines.reports.evaluation import SHOWN, Beside, check_place, write_results
    options = argparse.Namespace(batch_size=batch_size, rule=rule, device=device, precision=precision, beam=beam, ngram=ngram, ngram_weight=ngram_weight,
                                 bcn=bcn, bcn_weight=bcn_weight, lexicon=lexicon, both_ways_up=both_ways_up)
    check_batch_size(options)
    sets = open_sets([f"{name}={os.fspath(path)}" for name, path in data.items()] if isinstance(data, Mapping) else list(data))
    if out is not None:
        check_place(os.fspath(out))
    with quietly(quiet):
        measured = Measured(os.fspath(model), options)
        results = [measured.read(words, SHOWN if out is not None else 0) for words in sets]
        other = Beside(os.fspath(beside), read_beside(os.fspath(beside), options, measured, results)) if out is not None and beside is not None else None
    if out is not None:
        write_results(os.fspath(out), os.fspath(model), results, measured.about, measured.facts(results), other)
        if track:
            from pipelines.registry.evaluations import track as record
            record(os.fspath(model), results, os.fspath(out))
    return {result.words.name: result.evaluation.score for result in results}


def predict(model: Place, *sources: Place, out: Place, min_confidence: float | None = None, batch_size: int = 256, device: str | None = None,
            precision: Literal["float32", "bf16"] = "float32", beam: int | None = None, ngram: str | None = None, ngram_weight: float = 0.3,
            bcn: str | None = None, bcn_weight: float = 0.3, lexicon: str | None = None, both_ways_up: bool = False,
            overwrite: bool = False, quiet: bool = False) -> "Prediction":
    """Read images into a file (.csv, .tsv, .jsonl) or a corpus of pseudo-labels; `load` gives a reader whose results stay in the program.

    Raises:
        BadInput: no such model, source or device, a search that the model does not have, or a place that is taken.
    """
    import argparse

    from pipelines.corpus import storage
    from pipelines.prediction import pipeline
    from pipelines.prediction.labeler import Labeler, Manner
    from pipelines.prediction.sources import open_all
    options = argparse.Namespace(batch_size=batch_size, precision=precision, beam=beam, ngram=ngram, ngram_weight=ngram_weight, bcn=bcn,
                                 bcn_weight=bcn_weight, lexicon=lexicon, both_ways_up=both_ways_up)
    named = [os.fspath(source) for source in sources]
    with quietly(quiet):
        job = pipeline.Job(open_all(named), named, Labeler.open(os.fspath(model)), Manner.of(options), storage.absolute(os.fspath(out)), device,
                           min_confidence, overwrite)
        return pipeline.predict(job)


def describe(corpus: Place, *, quiet: bool = False) -> dict[str, Any]:
    """What a corpus holds, in numbers, as `textray describe --json` prints it."""
    from pipelines.corpus.reader import Corpus
    from pipelines.corpus.tally import describe as tell
    from pipelines.ingestion.brought import brought_in
    with quietly(quiet):
        return tell(Corpus.open(brought_in(os.fspath(corpus))))
