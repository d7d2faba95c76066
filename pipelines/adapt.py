"""`textray adapt`: a folder of one's own word images -> a recognizer that reads them, and a table of what they say."""

import argparse
import hashlib
import json
import os
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipelines.arguments import Parser, add_both_ways_up, add_charset, add_labels, add_name, add_out, add_words, outliving, positive
from pipelines.corpus import storage
from pipelines.corpus.reader import Corpus
from pipelines.demo import Steps
from pipelines.errors import BadInput
from pipelines.handles import shown_uri
from pipelines.ingestion.split import labeled_rows
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
    parts_of,
    recipe,
    texts_of,
    usable,
    write_recipe,
)
from pipelines.progress import warn
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
    arguments.add_argument("--minutes", type=positive, default=30.0, help="about how long it may take (default 30)")
    add_name(arguments, ", and that of its runs (default: %(default)s)", default="adapted")
    add_out(arguments, "FOLDER", "all that is made (default: --name)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray adapt`."""
    options = parser().parse_args(argv)
    folder = storage.here(options.out or outliving(options.name), "--out")
    wishes = Wishes(options.words, options.pattern, options.model, options.charset, options.minutes, options.both_ways_up)
    begun = check(options, wishes)
    folder.mkdir(parents=True, exist_ok=True)
    _begin(folder / "begun.json", begun, options.out or options.name)
    wishes = replace(wishes, model=_start(folder, wishes.model))
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder.absolute()}/mlflow.db")
    step, corpora = Steps(None), folder / "corpora"
    source = [f"labeled={options.images}", *(("--labels", options.labels) if options.labels else ())]
    images = _once(step, "bring in the images", corpora / "images", "ingest", f"images={options.images}", "--out", corpora / "images")
    labels = _labels(step, corpora, source) if options.labels or labeled_rows(images) else []
    validation, test = parts_of(len(labels))
    if test:
        _once(step, "lay labels aside to measure by", corpora / "labeled-train", "split", corpora / "labeled", "--validation", validation, "--test", test)
    charset = characters_of(wishes, labels, _listed(wishes))
    for number, (look, count) in enumerate(drawn_words(wishes.minutes).items()):
        like = (f"--words={wishes.words}",) if wishes.words else (f"--pattern={wishes.pattern}",) if wishes.pattern else ()
        _once(step, f"draw words ({look})", corpora / f"drawn-{look}", "render", "--out", corpora / f"drawn-{look}", "-n", count, "--style", look,
              "--seed", number, f"--charset={charset}", "--source", f"drawn-{look}", *like)
    plan = _planned(folder, wishes, labels, charset, step.seconds)
    model = _learn(step, folder, options.name, plan, wishes)
    reading = ["--both-ways-up"] if wishes.both_ways_up else []
    if test:
        step("measure it on the labels that were laid aside", "evaluate", model, "--data", f"test={corpora / 'labeled-test'}", "--out", folder / "report", *reading)
    registered = folder / "registered.txt"
    if not registered.exists():
        step("put it into the registry", "register", model, "--name", options.name)
        registered.write_text(f"{model}\n", encoding="utf-8")
    step("read the images", "predict", model, corpora / "images", "--out", folder / "words.csv", "--overwrite", *reading)
    _conclude(folder, options.name, model, len(labels), bool(test), step.seconds)
    return 0


def check(options: argparse.Namespace, wishes: Wishes) -> dict[str, object]:
    """What the journey begins with, by which a later one is known to be the same. Raises BadInput for what cannot be used, before anything is written."""
    from pipelines.ingestion.sources.opening import open_sources
    from pipelines.ingestion.sources.row import ReadOptions
    from pipelines.reading.weights import find_model
    sources = open_sources([f"labeled={options.images}"], ReadOptions(labels=options.labels))
    listed = _listed(wishes)
    characters_of(wishes, [], listed)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", options.name):
        raise BadInput(f"--name {options.name}: expected letters, digits, dots, dashes and underscores, found others: choose another name")
    if wishes.model is not None:
        find_model(wishes.model)
    return {"wishes": asdict(wishes), "images": [(source.name, source.count(), source.fingerprint) for source in sources],
            "words": hashlib.sha256("\n".join(listed).encode()).hexdigest()}


def _begin(file: Path, begun: dict[str, object], out: str) -> None:
    """Write down with what a journey begins. Raises BadInput for a folder where another one has begun: images, labels or wishes differ."""
    now = json.loads(json.dumps(begun))
    if file.exists():
        before = parse_json(file.read_bytes(), dict[str, Any], str(file), "remove its folder, or choose another --out")
        different = [name for name in now if before.get(name) != now[name]]
        if different:
            raise BadInput(f"{out}: expected a free name or the same command on the same images, found what another one left ({', '.join(different)} differ): choose "
                           "another --out, or remove that folder")
    elif any(file.parent.iterdir()):
        raise BadInput(f"{out}: expected a free name or what an earlier `textray adapt` left, found a folder with other files: choose another --out")
    else:
        storage.write_bytes(str(file), json.dumps(begun, indent=1).encode())


def _start(folder: Path, model: str | None) -> str | None:
    """The model to begin with, copied: wherever it was and whatever becomes of it, the journey goes on from the same one."""
    from pipelines.reading.weights import DESCRIPTION, find_model, model_files
    place = folder / "start"
    if model is not None and not (place / DESCRIPTION).exists():
        files = model_files(find_model(model))
        for name in sorted(files, key=lambda name: name == DESCRIPTION):  # the description last: where it is, the weights are
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
    teaching = usable(labeled_place(bool(test), folder), charset) if labels else 0
    if 0 < teaching < LEAST_TO_TEACH:
        warn(f"{teaching} labels with characters of the charset are left to learn from, too few for a part of every batch: they are not used")
    plan = Plan(labels=teaching if teaching >= LEAST_TO_TEACH else 0, method=method, charset=charset, recognizer=recognizer, options=options, validation=validation,
                test=test, steps=steps, rounds=rounds, round_steps=round_steps)
    storage.write_bytes(str(file), plan.model_dump_json(indent=1).encode())
    return plan


def _recognizer(wishes: Wishes, charset: str, method: str, seconds: float) -> tuple[str, dict, str]:
    """Name, options and charset: those of the model to begin with, or the larger of two that the time is enough for."""
    if wishes.model is not None:
        from pipelines.reading.weights import find_model, read_description
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


def _learn(step: Steps, folder: Path, name: str, plan: Plan, wishes: Wishes) -> Path:
    """Train the first run, and the rounds; returns the last run."""
    first, rounds = folder / "recipes" / "first.yaml", folder / "recipes" / "rounds.yaml"
    run: str | Path = wishes.model or ""
    if plan.steps:
        write_recipe(first, recipe(plan, folder, f"{name}-first", True, wishes.model))
        step(f"learn from drawn words{' and labels' if plan.labels else ''}", "finetune", first)
        run = folder / "runs" / f"{name}-first"
    if not plan.rounds:
        return Path(run)
    sure, asked = surely_read(run, folder / "corpora" / "images")
    if sure < max(LEAST_SURE, asked * SURE_SHARE):
        warn(f"{sure} of {asked} images are read with a confidence of 0.3 or more, too few to learn from: the reader is the one of the first run; it "
              "needs more --minutes, words that are more like those on the images, or some labels")
        return Path(run)
    write_recipe(rounds, recipe(plan, folder, name, False, str(run)))
    guide = [*NGRAM, _guide(folder, wishes)] if wishes.pattern is None else list(OWN_NGRAM)
    done = step.tried("learn from what it reads surely in the images", "self-train", rounds, "--teacher", run, "--from-scratch", "--rounds", plan.rounds,
                        "--share", PSEUDO_SHARE, *guide, *(["--both-ways-up"] if wishes.both_ways_up else []))
    last = next((number for number in range(plan.rounds, 0, -1) if (folder / "runs" / f"{name}-round-{number}" / "model").is_dir()), 0)
    if not done:
        warn(f"the reader is the one of {f'round {last}' if last else 'the first run'}: for why, see above")
    return folder / "runs" / f"{name}-round-{last}" if last else Path(run)


def surely_read(model: str | Path, images: Path) -> tuple[int, int]:
    """How many of some images a model reads with a confidence of 0.3 or more, and how many were asked."""
    from pipelines.corpus.sampling import sampled_rows
    from pipelines.evaluation.measure import evaluate_recognizer
    from pipelines.reading.weights import find_model, load_recognizer
    rows = sampled_rows([Corpus.open(images)], ASKED, ("key", "image"))
    words = evaluate_recognizer(load_recognizer(find_model(str(model))), [(key, image, "") for key, image in rows]).words
    return sum(word.confidence >= 0.3 for word in words), len(words)


def _guide(folder: Path, wishes: Wishes) -> str:
    """A file of words for the n-gram: the user's, or English ones."""
    if wishes.words:
        return wishes.words
    from pipelines.synthesis.words import english_words
    file = folder / "english.txt"
    if not file.exists():
        file.write_text("\n".join(english_words()[:50_000]) + "\n", encoding="utf-8")
    return str(file)


def _conclude(folder: Path, name: str, model: Path, labels: int, tested: bool, seconds: float) -> None:
    shown = os.path.relpath(folder)
    print(f"\n{shown}/words.csv: what the images say, with a confidence for each (made in {time.strftime('%H:%M:%S', time.gmtime(seconds))})")
    print(f"the reader:  textray predict {os.path.relpath(model)} IMAGES\n"
          f"registry:    mlflow ui --backend-store-uri {shown_uri()}     (as {name!r})")
    if tested:
        print(f"its report:  {shown}/report/evaluation.html")
    else:
        print(f"how good it is: unknown, with {labels} labels. Correct some lines of words.csv, and say them: --labels FILE --out ANOTHER")


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("adapt"))
