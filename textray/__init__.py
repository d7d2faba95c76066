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

from pipelines.errors import BadInput, Unavailable
from textray.commands import describe, evaluate, finetune, ingest, predict, pretrain, render, split, train
from textray.reader import Reader, load

__all__ = ["BadInput", "Reader", "Unavailable", "describe", "evaluate", "finetune", "ingest", "load", "predict", "pretrain", "render", "split", "train"]
