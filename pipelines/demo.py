"""`textray demo`: the whole job, command by command, on words that it draws itself or on real benchmarks.

Every step is a command that a user would type; the demo prints it before it runs it.
"""

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from pipelines import cli
from pipelines.arguments import Parser, add_out, add_overwrite, outliving
from pipelines.corpus.reader import Corpus
from pipelines.corpus.storage import here
from pipelines.errors import BadInput, Unavailable
from pipelines.progress import is_silent, say
from pipelines.state import parse_json
from pipelines.training.packaged import PACKAGED as RECIPES

SOURCE_WORDS = 20_000
TARGET_WORDS = {"target": 6_000, "validation": 300, "gate": 300, "held-out": 1_000}  # of the other look, no word in two of them
TENTHS = {"validation": 0, "gate": 1}  # of the real training images: rows 0, 10, 20 … and 1, 11, 21 …; all others are unlabeled
VOCABULARY = 2_000  # drawn in lower case, capitalised, and upper case
REAL_SOURCE_WORDS = 60_000
MODEL = "textray-demo"
MARK = "made-by-textray-demo.txt"  # the first file of a demo's folder: without it nothing is removed
MADE = {MARK, "drawn", "files", "corpora", "runs", "reports", "mlartifacts"}  # and mlflow.db with what SQLite puts beside it


@dataclass(frozen=True)
class Material:
    """What the job works on: a labeled corpus, an unlabeled one, words to choose by, words that a champion must read, and words to measure on.

    No image is in two of them, nor nearly: what is chosen on test words would look better than it is.
    """

    source: Path
    target: Path
    validation: Path
    gate: Path
    tests: dict[str, Path]
    lengths: tuple[int, int, int, int] | None = None  # steps of pretraining, supervised, CCR and a trial; None: the recipes'


class Steps:
    """Runs commands one after another, with a heading and the time of each; stops at the first that fails.

    count: how many there will be; None where that is not known.
    """

    def __init__(self, count: int | None):
        self._count, self._done, self._started = count, 0, time.monotonic()

    def __call__(self, title: str, *words: object) -> None:
        if not self.tried(title, *words):
            raise BadInput(f"it stops, since its step {self._done} ({title}) failed; what is done so far is kept")

    def tried(self, title: str, *words: object) -> bool:
        """The same, but for one that may be refused: returns whether it was done."""
        command, *arguments = map(str, words)
        self.heading(f"{title}: textray {shlex.join(map(_shown, [command, *arguments]))}")
        with contextlib.redirect_stdout(io.StringIO()) if is_silent() else contextlib.nullcontext():  # the results are those of the last step
            status = cli.run(command, arguments)
        if status == 130:
            raise KeyboardInterrupt
        if status == os.EX_TEMPFAIL:
            raise Unavailable(f"its step {self._done} ({title}) needs what is away; what is done so far is kept, and the same command goes on")
        return status == 0

    def heading(self, line: str) -> None:
        """Begin a step."""
        self._done += 1
        passed = time.strftime("%M:%S", time.gmtime(self.seconds))
        say(f"\n[{self._done}{'' if self._count is None else f'/{self._count}'}] {passed}  {line}")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started


def _shown(word: str) -> str:
    name, separator, path = word.partition("=")
    if separator and Path(path).is_absolute():
        return f"{name}={os.path.relpath(path)}"
    return os.path.relpath(word) if Path(word).is_absolute() else word


def write_pictures(corpus: Path, folder: Path, rows: Callable[[int], bool], labels: bool) -> None:
    """The rows of a corpus whose numbers `rows` wants as the files that a user might have: pictures, and labels.tsv if `labels`."""
    folder.mkdir(parents=True)
    lines = []
    for number, (image, text) in enumerate(row for place, row in enumerate(_rows(Corpus.open(corpus))) if rows(place)):
        name = f"{number:06d}.jpg"
        (folder / name).write_bytes(image)
        lines.append(f"{name}\t{text}\n")
    if labels:
        (folder / "labels.tsv").write_text("".join(lines), encoding="utf-8")


def _rows(corpus: Corpus) -> Iterator[tuple[bytes, str]]:
    for table in corpus.rows_iter(["image", "text"]):
        yield from zip(table["image"].to_pylist(), table["text"].to_pylist(), strict=True)


def write_vocabulary(file: Path) -> Path:
    """The commonest English words of 3 to 8 letters, in three spellings: few enough to be learned in minutes."""
    from wordfreq import top_n_list
    words = [word for word in top_n_list("en", 4 * VOCABULARY) if word.isascii() and word.isalpha() and 3 <= len(word) <= 8][:VOCABULARY]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{word}\n{word.capitalize()}\n{word.upper()}\n" for word in words), encoding="utf-8")
    return file


def drawn_material(folder: Path, step: Steps) -> Material:
    """A labeled source and an unlabeled target that look different, drawn, left as plain files, and brought in."""
    drawn, files, corpora = folder / "drawn", folder / "files", folder / "corpora"
    words = ["--charset", "36", "--words", write_vocabulary(files / "words.txt")]
    step("draw labeled source words", "render", "--out", drawn / "source", "-n", str(SOURCE_WORDS), "--style", "plain", *words)
    step("draw target words of another look", "render", "--out", drawn / "target", "-n", str(sum(TARGET_WORDS.values())),
         "--style", "sign", "--seed", "1", *words)
    write_pictures(drawn / "source", files / "source", lambda row: True, labels=True)
    ends = list(accumulate(TARGET_WORDS.values(), initial=0))
    for name, part in zip(TARGET_WORDS, map(range, ends, ends[1:]), strict=False):
        write_pictures(drawn / "target", files / name, part.__contains__, labels=name != "target")
    tests = {"held-out": files / "held-out"}
    return bring_in(step, files, corpora, tests, ("source", "target", "validation", "gate"))


def bring_in(step: Steps, files: Path, corpora: Path, tests: dict[str, Path], parts: Sequence[str]) -> Material:
    """Make a corpus of each folder of files, without images of the test sets."""
    for name in parts:
        step(f"bring in the {name} words", "ingest", files / name, "--out", corpora / name, "--guard",
             *(f"{test}={path}" for test, path in tests.items()))
    return Material(corpora / "source", corpora / "target", corpora / "validation", corpora / "gate", tests)


def real_sets(data: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The training and the test sets below a folder, by name.

    Raises:
        BadInput: one of them is not there.
    """
    train = {name: data / "words" / "train" / name for name in ("IIIT5K", "IC15", "SVT")}
    tests = {name: data / "words" / "test" / name for name in ("SVT", "IIIT5K", "IC13")}
    for place in (*train.values(), *tests.values()):
        if not place.exists():
            raise BadInput(f"expected the real benchmarks under {data} (words/train/… and words/test/…), found no {place}")
    return train, tests


def real_material(folder: Path, step: Steps, data: Path) -> Material:
    """Synthetic labels; of the training images of IIIT5K, IC15 and SVT eight tenths unlabeled, one to choose by and one for the gate; their test
    sets to measure on."""
    train, tests = real_sets(data)
    files, corpora = folder / "files", folder / "corpora"
    step("draw labeled source words", "render", "--out", corpora / "source", "-n", str(REAL_SOURCE_WORDS), "--style", "scene", "--charset", "36")
    step("bring in the real training images, each picture once", "ingest", *(f"{name}={path}" for name, path in train.items()),
         "--out", folder / "real", "--duplicates", "near")
    write_pictures(folder / "real", files / "target", lambda row: row % 10 not in TENTHS.values(), labels=False)
    for name, tenth in TENTHS.items():
        write_pictures(folder / "real", files / name, lambda row: row % 10 == tenth, labels=True)
    material = bring_in(step, files, corpora, tests, ("target", "validation", "gate"))
    # Photographs take longer to learn than the drawn words: steps of pretraining, supervised, CCR and a trial.
    return replace(material, lengths=(300, 4000, 1000, 200))


def learn(folder: Path, step: Steps, material: Material) -> dict[str, Path]:
    """Pretrain, fine-tune supervised and with CCR, sweep; returns the models by name."""
    runs = f"runs={folder / 'runs'}"
    labeled = [f"data.labeled.corpus={material.source}", f"data.validation.corpus={material.validation}"]
    both = [*labeled, f"data.unlabeled.corpus={material.target}"]
    pretrain, supervised, ccr, trial = [[f"training.steps={steps}"] for steps in material.lengths] if material.lengths else [[]] * 4
    step("pretrain without labels (SeqCLR)", "pretrain", RECIPES / "demo_pretrain.yaml", runs, f"data.unlabeled.corpus={material.target}", *pretrain)
    step("fine-tune on the source's labels", "finetune", RECIPES / "demo_supervised.yaml", runs, *labeled, *supervised)
    step("fine-tune on both (CCR)", "finetune", RECIPES / "demo_ccr.yaml", runs, *both, *ccr)
    step("sweep four trials", "tune", RECIPES / "demo_sweep.yaml", "--trials", "4", runs, *both, *trial)
    file = folder / "runs" / "sweep" / "trials.json"
    best = parse_json(file.read_bytes(), dict[str, Any], str(file), "run the demo again with --overwrite")["trials"][0]
    return {"supervised": folder / "runs" / "supervised", "ccr": folder / "runs" / "ccr",
            "sweep, best trial": folder / "runs" / "sweep" / "trials" / best["name"]}


def measure(folder: Path, step: Steps, title: str, model: Path, sets: dict[str, Path]) -> dict:
    """Evaluate a model on sets; returns the average row."""
    out = folder / "reports" / f"{model.name}-{'-'.join(sets)}"
    step(title, "evaluate", model, *(word for name, path in sets.items() for word in ("--data", f"{name}={path}")), "--out", out)
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["average"]


def read_five(step: Steps, tests: dict[str, Path]) -> None:
    """Read five images with the champion, through MLflow, as a user of the registry would."""
    import mlflow
    import pandas

    from pipelines.handles import tracking_uri
    from pipelines.ingestion.sources.opening import open_sources
    step.heading(f"read five images with models:/{MODEL}@champion")
    mlflow.set_tracking_uri(tracking_uri())
    champion = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion")
    source = open_sources([str(next(iter(tests.values())))])[0]
    rows = list(islice(next(source.pieces(5)).read(), 5))
    answers = champion.predict(pandas.DataFrame({"image": [row.image for row in rows]}))
    for row, text, confidence in zip(rows, answers["text"], answers["confidence"]):
        print(f"  {row.key:<28} label {row.text:<14} read {text:<14} confidence {confidence:.2f}")


def remove_demo(folder: Path) -> None:
    """Remove what an earlier demo left. Raises BadInput, and removes nothing, if it is not a demo's folder or holds other files too."""
    names = {item.name for item in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else {"another file"}
    others = sorted(name for name in names if name not in MADE and not name.startswith("mlflow.db")) or sorted(names if MARK not in names else [])
    if others:
        raise BadInput(f"--out {folder}: expected what an earlier demo made ({MARK} says so) and nothing else, found {others[0]}; nothing is "
                       "removed: name another --out, or move that away")
    shutil.rmtree(folder)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = Parser(prog="textray demo", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="Render, ingest, pretrain, fine-tune, sweep, evaluate, register, read.",
                                     epilog="example: textray demo\n         textray demo --benchmarks ../shared/data --out real")
    add_out(parser, "FOLDER", "all that is made; it must not exist, unless --overwrite (default: demo)")
    parser.renamed("--folder", "--out FOLDER")
    parser.add_argument("--benchmarks", metavar="FOLDER", help="real benchmarks (words/train/{IIIT5K,IC15,SVT}, words/test/{SVT,IIIT5K,IC13}) instead of drawn targets")
    parser.renamed("--data", "--benchmarks FOLDER")
    add_overwrite(parser, "an earlier demo")
    arguments = parser.parse_args(argv)
    folder = here(arguments.out or outliving("demo"), "--out")
    data = arguments.benchmarks and here(arguments.benchmarks, "--benchmarks")
    if data:
        real_sets(data)
    if os.path.lexists(folder):
        if not arguments.overwrite:
            raise BadInput(f"expected no folder {os.path.relpath(folder)}, found one; say --overwrite to remove it, or name another with --out")
        remove_demo(folder)
    folder.mkdir(parents=True)
    (folder / MARK).write_text("textray demo made this folder, and removes what is in it if it is told to --overwrite.\n", encoding="utf-8")
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    step = Steps(15 if data else 16)
    material = real_material(folder, step, data) if data else drawn_material(folder, step)
    models = learn(folder, step, material)
    chosen_by = {name: measure(folder, step, f"choose: {name}", model, {"validation": material.validation}) for name, model in models.items()}
    winner = max(chosen_by, key=lambda name: chosen_by[name]["accuracy"])
    step(f"register the winner, {winner}", "register", models[winner], "--name", MODEL, "--promote", "--data", f"gate={material.gate}")
    measured = measure(folder, step, f"measure the winner, {winner}", models[winner], material.tests)
    read_five(step, material.tests)
    _conclude(folder, chosen_by, winner, measured, list(material.tests), step.seconds)
    return 0


def _conclude(folder: Path, chosen_by: dict[str, dict], winner: str, measured: dict, tests: list[str], seconds: float) -> None:
    from pipelines.handles import shown_uri
    print(f"\n{'model':<20} {'words':>6} {'word accuracy':>14} {'1 - NED':>8} {'CER':>7}")
    rows = {name: (row, "validation" + ("  <- chosen, registered" if name == winner else "")) for name, row in chosen_by.items()}
    for name, (row, remark) in [*rows.items(), (winner, (measured, ", ".join(tests)))]:
        print(f"{name:<20} {row['words']:>6} {row['accuracy']:>14.2%} {row['one_minus_ned']:>8.3f} {row['cer']:>7.3f}  {remark}")
    place = os.path.relpath(folder)
    print(f"\ndone in {seconds / 60:.1f} minutes\n"
          f"runs and registry: mlflow ui --backend-store-uri {shown_uri()}\n"
          f"worst mistakes:    {place}/reports/*/evaluation.html\nsweep:             {place}/runs/sweep/report.html\n"
          f"read with it:      mlflow models serve -m models:/{MODEL}@champion --env-manager local")


if __name__ == "__main__":
    raise SystemExit(cli.run("demo"))
