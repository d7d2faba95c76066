"""The command `textray`: a table of commands, each a module with `main(argv) -> int` that is imported only when it is asked for."""

import codecs
import errno
import importlib
import locale
import os
import re
import select
import sys
from contextlib import suppress
from io import TextIOWrapper

from pipelines.errors import BadInput, Unavailable
from pipelines.progress import quietly

# name: (module, one line of help). Modules are named, not imported: `textray --help` must answer at once, and the
# search lives in `tuning`, which this package may not import.
COMMANDS = {
    "demo": ("pipelines.demo", "the whole job on a small embedded default: render, ingest, pretrain, fine-tune, sweep, register"),
    "adapt": ("pipelines.adapt", "your own word images -> a reader of them, and a table of what they say"),
    "doctor": ("pipelines.doctor", "what this machine has, and what would fail"),
    "render": ("pipelines.render", "make a labeled corpus of synthetic words"),
    "ingest": ("pipelines.ingest", "bring LMDBs, tars, Parquet files, folders and annotated scenes into a corpus"),
    "describe": ("pipelines.describe", "say what a corpus holds, in numbers or as a page of pictures"),
    "verify": ("pipelines.verify", "read every byte of corpora, models and runs, and say what is damaged"),
    "relabel": ("pipelines.relabel", "take a list of corrected labels into a corpus"),
    "split": ("pipelines.split", "cut a corpus into parts to train, validate and test on; near duplicates stay together"),
    "export": ("pipelines.export", "give a corpus to other toolkits: LMDB, WebDataset tars or a folder"),
    "recipes": ("pipelines.recipes", "list, show and copy the recipes that come with textray"),
    "pretrain": ("pipelines.pretrain", "train an encoder on unlabeled images (self-supervised)"),
    "finetune": ("pipelines.finetune", "train a recognizer on labels, alone or with unlabeled images (semi-supervised)"),
    "runs": ("pipelines.runs", "list runs: their step, the time left, their accuracy; follow one that is being trained"),
    "evaluate": ("pipelines.evaluate", "measure a model on benchmarks"),
    "compare": ("pipelines.compare", "whether one model reads more than another, on the same words"),
    "probe": ("pipelines.probe", "what a pretrained model is worth, by fractions of the labels"),
    "self-train": ("pipelines.self_train", "rounds of pseudo-labels: a model labels, a student learns (Pseudo-Label, Noisy Student)"),
    "predict": ("pipelines.predict", "read images: lines, a file, or a corpus of pseudo-labels"),
    "calibrate": ("pipelines.calibrate", "make a model's confidences honest: one temperature, fitted on labels"),
    "tune": ("tuning.sweep", "search the fields of a recipe, and judge the winner"),
    "register": ("pipelines.register", "put a run's model into the MLflow registry"),
    "rollback": ("pipelines.rollback", "make the champion of before champion again"),
    "models": ("pipelines.models", "list the recognizers with what they cost"),
    "import-weights": ("pipelines.import_weights", "put a published checkpoint into the registry, ready to evaluate"),
    "completion": ("pipelines.completion", "a script by which the shell completes commands and options"),
    "export-model": ("pipelines.export_model", "write a model as ONNX, torch.export or TorchScript for other programs"),
}

# What people type who know other tools, and the command that does it here.
MEANT = {"train": "finetune", "fit": "finetune", "read": "predict", "recognize": "predict", "infer": "predict", "label": "predict", "list": "runs", "ls": "runs",
         "status": "runs", "eval": "evaluate", "test": "evaluate", "val": "evaluate", "diff": "compare", "import": "ingest", "load": "ingest", "show": "describe",
         "generate": "render", "synthesize": "render", "quickstart": "adapt", "fine-tune": "finetune", "search": "tune", "sweep": "tune", "check": "verify"}

# Of these the same command, repeated, goes on where it was interrupted.
GOES_ON = {"adapt", "ingest", "pretrain", "finetune", "self-train", "probe", "tune"}

# What the operating system says of a name that a user gave; whatever else it says is a defect of ours, or of the machine.
PLACES = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EROFS, errno.ENOSPC, errno.EDQUOT}

USAGE = "usage: textray COMMAND [...]\n\nTrain scene-text recognizers from images that nobody labeled.\n\ncommands:\n{commands}\n\n" \
    "`textray help COMMAND` shows a command's options with an example.\nexample: textray demo\n"


def usage() -> str:
    """The text of `textray --help`."""
    return USAGE.format(commands="\n".join(f"  {name:<14} {line}" for name, (_, line) in COMMANDS.items()))


def run(name: str, argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 bad input, 75 something away that was needed (one sentence on stderr), 130 interrupted."""
    if argv is None:
        _in_utf8()
    try:
        with quietly(False):  # what --quiet silences ends with the command
            status = importlib.import_module(COMMANDS[name][0]).main(argv)
        sys.stdout.flush()
        return status
    except BadInput as problem:
        print(f"textray: error: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        if not _nobody_reads():  # another pipe broke, such as a store's
            raise
        return 141
    except OSError as problem:
        if problem.errno not in PLACES:
            raise
        print(f"textray: error: {_place(problem)}: expected a place that can be read or written, found: {os.strerror(problem.errno).lower()}: correct "
              "the name, or the permissions", file=sys.stderr)
        return 2
    except Unavailable as problem:
        print(f"textray: error: {problem}", file=sys.stderr)
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        print(f"textray: {name} interrupted{': the same command goes on' if name in GOES_ON else ''}", file=sys.stderr)
        return 130


def _nobody_reads() -> bool:
    """Whether the reader of our output has gone, as `| head` does; what was still to be written then goes nowhere."""
    asked = select.poll()
    asked.register(1, select.POLLOUT)
    if not any(events & select.POLLERR for _, events in asked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def _place(problem: OSError) -> str:
    """The file that the operating system refused, as it says it; pyarrow names it in its message."""
    quoted = re.search("'([^']+)'", str(problem))
    return str(problem.filename) if problem.filename else quoted[1] if quoted else "a file"


def _in_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale has another encoding: a file's name is then the same in every locale, and its processes'.

    What a terminal that says it can show less cannot show becomes a question mark, and ends no command.
    """
    if not sys.flags.utf8_mode and codecs.lookup(locale.getencoding()).name != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.isatty():
        sys.stdout.reconfigure(errors="replace")


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command `textray`."""
    if argv is None:
        _in_utf8()
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        with suppress(BrokenPipeError):
            print(usage(), end="", flush=True)
        return 141 if _nobody_reads() else 0
    if arguments[0] == "--version":
        from importlib.metadata import version
        print(f"textray {version('textray')}")
        return 0
    if arguments[0] == "help":
        return main([*arguments[1:2], "--help"])
    if arguments[0] not in COMMANDS:
        import difflib
        near = [MEANT[arguments[0]]] if arguments[0] in MEANT else difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`textray --help` lists them."
        print(f"textray: error: there is no command {arguments[0]!r}: {hint}", file=sys.stderr)
        return 2
    return run(arguments[0], arguments[1:])


if __name__ == "__main__":
    raise SystemExit(main())
