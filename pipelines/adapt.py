"""`textray adapt`: a folder of one's own word images -> a recognizer that reads them, and a table of what they say."""

import argparse
import hashlib
import os
import re
import shlex
import time
from dataclasses import asdict, replace
from pathlib import Path

from pipelines.arguments import Parser, add_both_ways_up, add_charset, add_labels, add_max_errors, add_name, add_out, add_words, outliving, positive
from pipelines.corpus import storage
from pipelines.corpus.reader import Corpus
from pipelines.demo import Steps
from pipelines.errors import BadInput
from pipelines.handles import shown_uri
from pipelines.ingestion.split import labeled_rows
from pipelines.journey.begun import begin
from pipelines.journey.choice import Reader, better, right_and_words
from pipelines.journey.guide import write_guide
from pipelines.journey.plan import (
    FEW_STEPS,
    LEAST_TO_TEACH,
    MANY,
    PSEUDO_SHARE,
    Plan,
    Wishes,
    budget,
    characters_of,
    drawn_words,
    labeled_place,
    named,
    parts_of,
    recipe,
    texts_of,
    usable,
    write_recipe,
)
from pipelines.progress import say, warn
from pipelines.reading.weights import DESCRIPTION as ABOUT_MODEL
from pipelines.reading.weights import find_model, model_files
from pipelines.state import parse_json

DESCRIPTION = """Make a reader for your own word images, and read them into a table. What there is decides what is done:
  no labels, or few     learn from drawn words, read the images, learn from what is read surely (pseudo-labels)
  2,000 labels or more  learn from them, and from drawn words beside them
Words like yours help: --words FILE (one a line), or --pattern for codes. Every step is a command, which is printed;
stopped or killed, the same command goes on."""
EXAMPLE = """examples:
  textray adapt crops/ --minutes 20
  textray adapt crops/ --labels labels.csv --pattern "[A-Z]{1,2}[0-9]{2,4}" --both-ways-up
  textray adapt crops/ --words names.txt --model models:/words@champion"""
NGRAM = ("--beam", "10", "--min-confidence", "0.7", "--ngram")
ASKED, LEAST_SURE, SURE_SHARE = 500, 10, 0.02  # images; of them, readings that are sure enough to make an n-gram of
OWN_NGRAM = ("--beam", "10", "--min-confidence", "0.9", "--own-ngram", "0.3")


def parser() -> argparse.ArgumentParser:
    """The command line of `textray adapt`."""
    arguments = Parser(prog="textray adapt", description=DESCRIPTION, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("images", metavar="IMAGES", help="a folder of word images, or whatever else `textray ingest` takes")
    add_labels(arguments, "some labels help (default: a label file in the folder)")
    add_words(arguments)
    arguments.add_argument("--model", metavar="MODEL", help="begin with it: a run, a model folder, or models:/NAME@champion")
    add_charset(arguments, " (default: those of the labels and of the words)")
    add_both_ways_up(arguments)
    add_max_errors(arguments)
    arguments.add_argument("--minutes", type=positive, default=30.0, help="about how long it may take (default 30)")
    add_name(arguments, ", and that of its runs (default: %(default)s)", default="adapted")
    add_out(arguments, "FOLDER", "all that is made (default: --name)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray adapt`."""
    options = parser().parse_args(argv)
    folder = storage.here(options.out or outliving(options.name), "--out")
    wishes = Wishes(options.words, options.pattern, options.model, options.charset, options.minutes, options.both_ways_up)
    begin(folder, check(options, wishes), options.out or options.name)
    wishes = replace(wishes, model=_start(folder, wishes.model))
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder.absolute()}/mlflow.db")
    step, corpora = Steps(None), folder / "corpora"
    given = ("--labels", options.labels) if options.labels else ()
    images = _once(step, "bring in the images", corpora / "images", "ingest", f"images={options.images}", "--out", corpora / "images", "--max-errors", options.max_errors)
    labels = _labels(step, corpora, [f"labeled={options.images}", *given, "--max-errors", options.max_errors]) if options.labels or labeled_rows(images) else []
    validation, test = parts_of(len(labels))
    if test:
        _once(step, "lay labels aside to measure by", corpora / "labeled-train", "split", corpora / "labeled", "--validation", validation, "--test", test)
    charset = characters_of(wishes, labels, _listed(wishes))
    for number, (look, count) in enumerate(drawn_words(wishes.minutes).items()):
        like = (f"--words={wishes.words}",) if wishes.words else (f"--pattern={wishes.pattern}",) if wishes.pattern else ()
        _once(step, f"draw words ({look})", corpora / f"drawn-{look}", "render", "--out", corpora / f"drawn-{look}", "-n", count, "--style", look,
              "--seed", number, f"--charset={charset}", "--source", f"drawn-{look}", *like)
    plan = _planned(folder, wishes, labels, charset, step.seconds)
    unlabeled = corpora / ("unlabeled" if labels and plan.rounds else "images")
    if labels and plan.rounds and len(labels) < images.rows and not (unlabeled / "corpus.json").exists():  # what has a label is not guessed at beside it
        step.tried("leave out what has a label", "ingest", f"images={options.images}", *given, "--only", "unlabeled", "--out", unlabeled, "--max-errors", options.max_errors)
    said = texts_of(Corpus.open(labeled_place(bool(test), folder))) if labels else []
    guide = None if wishes.pattern else write_guide(folder / "guide.txt", plan.charset, _listed(wishes), said)
    reader = _reader(step, folder, wishes, _learned(step, folder, options.name, plan, wishes, unlabeled, guide), bool(test), guide)
    registered = folder / "registered.txt"
    if not registered.exists():
        step("put it into the registry", "register", reader.run, "--name", options.name)
        registered.write_text(f"{reader.run}\n", encoding="utf-8")
    _read(step, folder, reader)
    _conclude(folder, options.name, reader, len(labels), bool(test), step.seconds)
    return 0


def check(options: argparse.Namespace, wishes: Wishes) -> dict[str, object]:
    """What the journey begins with, by which a later one is known to be the same. Raises BadInput for what cannot be used, before anything is written."""
    from pipelines.ingestion.sources.opening import open_sources
    from pipelines.ingestion.sources.row import ReadOptions
    sources = open_sources([f"labeled={options.images}"], ReadOptions(labels=options.labels))
    listed = _listed(wishes)
    characters_of(wishes, [], listed)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", options.name):
        raise BadInput(f"--name {options.name}: expected letters, digits, dots, dashes and underscores, found others: choose another name")
    if wishes.model is not None:
        find_model(wishes.model)
    of_images = open_sources([f"labeled={options.images}"], ReadOptions())
    return {"options": asdict(wishes) | {"labels": options.labels}, "images": [(source.count(), source.fingerprint) for source in of_images],
            "labels": [source.fingerprint for source in sources] if options.labels else [], "words": hashlib.sha256("\n".join(listed).encode()).hexdigest()}


def _start(folder: Path, model: str | None) -> str | None:
    """The model to begin with, copied: wherever it was and whatever becomes of it, the journey goes on from the same one."""
    place = folder / "start"
    if model is not None and not (place / ABOUT_MODEL).exists():
        files = model_files(find_model(model))
        for name in sorted(files, key=lambda name: name == ABOUT_MODEL):  # the description last: where it is, the weights are
            storage.write_bytes(str(place / name), files[name])
    return None if model is None else str(place)


def _once(step: Steps, title: str, made: Path, *command: object) -> Corpus:
    """Run a command that makes a corpus, unless it lies there."""
    if not (made / "corpus.json").exists():
        step(title, *command)
    return Corpus.open(made)


def _labels(step: Steps, corpora: Path, source: list[str]) -> list[str]:
    """The images that have a label, as a corpus of their own, and what they say."""
    return texts_of(_once(step, "bring in the labels", corpora / "labeled", "ingest", *source, "--only", "labeled", "--out", corpora / "labeled"))


def _listed(wishes: Wishes) -> list[str]:
    """The words that will be drawn, where the user says them."""
    from pipelines.synthesis.patterns import strings_of
    from pipelines.synthesis.words import lines_of
    return lines_of(wishes.words) if wishes.words else strings_of(wishes.pattern) if wishes.pattern else []


def _planned(folder: Path, wishes: Wishes, labels: list[str], charset: str, passed: float) -> Plan:
    """The plan that a killed journey wrote, or a new one, for which the machine is timed."""
    from pipelines.training.length import SHARE_OF_TRAINING
    file = folder / "plan.json"
    if file.exists():
        return parse_json(file.read_bytes(), Plan, str(file), "remove it, or choose another --out")
    method = "labels" if len(labels) >= MANY else "pseudo-labels"
    recognizer, options, charset = _recognizer(wishes, charset, method, max(60.0, 60 * wishes.minutes - passed))
    rate = _rate(recognizer, options, charset)
    begun = wishes.model is not None and not labels  # it reads already, better than drawn words would teach it
    steps, rounds, round_steps = budget(max(60.0, SHARE_OF_TRAINING * (60 * wishes.minutes - passed)), rate, method, begun)  # the rest is reading and measuring
    validation, test = parts_of(len(labels))
    teaching, strange = usable(labeled_place(bool(test), folder), charset) if labels else (0, {})
    if strange:
        warn(f"{sum(strange.values())} of the labels that are to teach hold characters outside of the charset and teach nothing ({named(strange)}): --charset says "
             "which there are")
    if 0 < teaching < LEAST_TO_TEACH:
        warn(f"{teaching} labels with characters of the charset are left to learn from, too few for a part of every batch: they are not used")
    plan = Plan(labels=teaching if teaching >= LEAST_TO_TEACH else 0, method=method, charset=charset, recognizer=recognizer, options=options, validation=validation,
                test=test, steps=steps, rounds=rounds, round_steps=round_steps)
    storage.write_bytes(str(file), plan.model_dump_json(indent=1).encode())
    return plan


def _recognizer(wishes: Wishes, charset: str, method: str, seconds: float) -> tuple[str, dict, str]:
    """Name, options and charset: those of the model to begin with, or the larger of two that the time is enough for."""
    if wishes.model is not None:
        from pipelines.reading.weights import read_description
        about = read_description(find_model(wishes.model))
        return about["name"], about.get("overrides", {}), about["charset"]
    from pipelines.training.length import SHARE_OF_TRAINING
    enough = budget(SHARE_OF_TRAINING * seconds, _rate("crnn_small", {}, charset), method)[0] >= FEW_STEPS
    return "crnn_small" if enough else "crnn_tiny", {}, charset


def _rate(recognizer: str, options: dict, charset: str) -> float:
    from pipelines.training.recipe import parse_recipe
    from pipelines.training.speed import images_per_second
    tree = {"name": "timed", "recognizer": {"name": recognizer, "options": options, "charset": charset}, "objective": {"name": "supervised"}, "data": {},
            "training": {"steps": 1}}
    return images_per_second(parse_recipe(tree), 64)


def _learned(step: Steps, folder: Path, name: str, plan: Plan, wishes: Wishes, unlabeled: Path, guide: str | None) -> list[Path]:
    """Train the first run, and the rounds; returns the run that taught, and the last round's if there is one."""
    first, rounds = folder / "recipes" / "first.yaml", folder / "recipes" / "rounds.yaml"
    run: str | Path = wishes.model or ""
    if plan.steps:
        write_recipe(first, recipe(plan, folder, f"{name}-first", True, wishes.model))
        step(f"learn from drawn words{' and labels' if plan.labels else ''}", "finetune", first)
        run = folder / "runs" / f"{name}-first"
    if not plan.rounds:
        return [Path(run)]
    if not (unlabeled / "corpus.json").exists():
        warn("every image has a label: there is none left to learn from by what is read in it")
        return [Path(run)]
    sure, asked = surely_read(run, unlabeled)
    if sure < max(LEAST_SURE, asked * SURE_SHARE):
        warn(f"{sure} of {asked} images are read with a confidence of 0.3 or more, too few to learn from: the reader is the one of the first run; it "
              "needs more --minutes, words that are more like those on the images, or some labels")
        return [Path(run)]
    write_recipe(rounds, recipe(plan, folder, name, False, str(run), unlabeled))
    how = list(OWN_NGRAM) if guide is None else [*NGRAM, guide]
    done = step.tried("learn from what it reads surely in the images", "self-train", rounds, "--teacher", run, "--from-scratch", "--rounds", plan.rounds,
                      "--share", PSEUDO_SHARE, *how, *(["--both-ways-up"] if wishes.both_ways_up else []))
    last = next((number for number in range(plan.rounds, 0, -1) if (folder / "runs" / f"{name}-round-{number}" / "model").is_dir()), 0)
    if not done:
        warn(f"the reader is the one of {f'round {last}' if last else 'the first run'}: for why, see above")
    return [Path(run), folder / "runs" / f"{name}-round-{last}"] if last else [Path(run)]


def _reader(step: Steps, folder: Path, wishes: Wishes, runs: list[Path], tested: bool, guide: str | None) -> Reader:
    """The run that becomes the reader, and how it reads: what reads most of the words that were laid aside, if some were. Its model is copied to model/."""
    file, plain = folder / "reader.json", ["--both-ways-up"] if wishes.both_ways_up else []
    if file.exists():
        return parse_json(file.read_bytes(), Reader, str(file), "remove it")
    found = Reader(run=str(runs[-1]), reading=plain)
    if tested:
        found = _chosen(step, folder, runs, plain, guide)
    files = model_files(find_model(found.run))
    for name in sorted(files, key=lambda name: name == ABOUT_MODEL):  # the description last: where it is, the weights are
        storage.write_bytes(str(folder / "model" / name), files[name])
    storage.write_bytes(str(file), found.model_dump_json(indent=1).encode())
    return found


def _chosen(step: Steps, folder: Path, runs: list[Path], plain: list[str], guide: str | None) -> Reader:
    words, last = f"test={folder / 'corpora' / 'labeled-test'}", runs[-1]
    counts: dict[str, tuple[int, int]] = {}
    for name, run in zip(("the first run", "the last round"), runs, strict=False):
        out, beside = folder / ("report" if run == last else "report-first"), ["--beside", runs[0]] if run != runs[0] else []
        step(f"measure {name} on the labels that were laid aside", "evaluate", run, "--data", words, "--out", out, *beside, *plain)
        counts[name] = right_and_words(out)
    name, sentence = better(counts)
    if len(runs) > 1:
        say(sentence)
    run, report = (runs[0], folder / "report-first") if len(runs) > 1 and name == "the first run" else (last, folder / "report")
    found = Reader(run=str(run), reading=plain, report=str(report))
    guided, out = ["--beam", "10", "--ngram", guide, *plain], folder / "report-guided"
    title = "measure it with the n-gram of what was drawn"
    if guide is None or not step.tried(title, "evaluate", run, "--data", words, "--out", out, *guided):  # not every decoder reads by a beam
        return found
    how, sentence = better({"with the n-gram": right_and_words(out), "without": counts[name]})
    say(sentence)
    return Reader(run=str(run), reading=guided, report=str(out)) if how == "with the n-gram" else found


def _read(step: Steps, folder: Path, reader: Reader) -> None:
    """Read the images into the table, once: what somebody has corrected in it stays."""
    table, written = folder / "words.csv", folder / "words.sha256"
    if not written.exists():
        step("read the images", "predict", reader.run, folder / "corpora" / "images", "--out", table, "--overwrite", *reader.reading)
        storage.write_bytes(str(written), hashlib.sha256(table.read_bytes()).hexdigest().encode())
    elif not table.exists():
        written.unlink()
        _read(step, folder, reader)
    elif hashlib.sha256(table.read_bytes()).hexdigest() != written.read_text(encoding="utf-8"):
        warn(f"{os.path.relpath(table)} was changed since it was written, and is left as it is; remove it to have the images read again")


def surely_read(model: str | Path, images: Path) -> tuple[int, int]:
    """How many of some images a model reads with a confidence of 0.3 or more, and how many were asked."""
    from pipelines.corpus.sampling import sampled_rows
    from pipelines.evaluation.measure import evaluate_recognizer
    from pipelines.reading.weights import load_recognizer
    rows = sampled_rows([Corpus.open(images)], ASKED, ("key", "image"))
    words = evaluate_recognizer(load_recognizer(find_model(str(model))), [(key, image, "") for key, image in rows]).words
    return sum(word.confidence >= 0.3 for word in words), len(words)


def _conclude(folder: Path, name: str, reader: Reader, labels: int, tested: bool, seconds: float) -> None:
    shown = os.path.relpath(folder)
    print(f"\n{shown}/words.csv: what the images say, with a confidence for each (after {time.strftime('%H:%M:%S', time.gmtime(seconds))})")
    print(f"the reader:  {shlex.join(['textray', 'predict', shown, *map(_below_here, reader.reading)])} IMAGES\n"
          f"registry:    mlflow ui --backend-store-uri {shown_uri()}     (as {name!r})")
    if tested:
        print(f"its report:  {os.path.relpath(reader.report or folder / 'report')}/evaluation.html (of the words by which it was chosen: others are read a little less well)")
    else:
        print(f"how good it is: unknown, with {labels} labels. Correct some lines of words.csv, and say them: --labels FILE --out ANOTHER")


def _below_here(word: str) -> str:
    return os.path.relpath(word) if os.path.isabs(word) else word


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("adapt"))
