"""Textray from Python: the commands of `textray` as functions, with the commands' names, arguments and defaults.

    import textray

    reader = textray.load("models:/words@champion")
    for reading in reader.read(["a.jpg", open("b.png", "rb").read(), pixels]):
        print(reading.text, reading.confidence)

    textray.ingest("photos/", out="corpora/photos", duplicates="near")
    run = textray.train("recipes/ccr_crnn_tiny.yaml", "training.steps=500")
    textray.evaluate(run.model, {"SVT": "data/svt"})["SVT"].accuracy

What is wrong with an argument is a `textray.BadInput`, whose message is the command's sentence. Nothing heavy is imported before it is needed.
"""

import importlib.util
import sys
from pathlib import Path

for _name in ("models", "pipelines", "tuning"):  # textray's own, which a folder of the user's with such a name would hide
    _found = importlib.util.find_spec(_name)
    if _found is None or _found.origin is None or Path(_found.origin).resolve().parents[1] != Path(__file__).resolve().parents[1]:
        raise ImportError(f"textray: expected its own package {_name!r} beside it, found {_found.origin if _found and _found.origin else 'none'}: start from another folder, "
                          f"rename yours, or put it behind textray's in sys.path ({sys.path[0] or 'the working folder'} comes first)")

from pipelines.errors import BadInput, Unavailable  # noqa: E402
from textray.commands import describe, evaluate, finetune, ingest, predict, pretrain, render, split, train  # noqa: E402
from textray.reader import Reader, load  # noqa: E402

__all__ = ["BadInput", "Reader", "Unavailable", "describe", "evaluate", "finetune", "ingest", "load", "predict", "pretrain", "render", "split", "train"]
