"""Whether every recognizer can learn: eight real words by heart, in float32 and in mixed precision (bf16).

    python benchmarks/overfit.py corpora/words                      all recognizers (about half an hour on 2 cores)
    python benchmarks/overfit.py corpora/words --recognizers hga abinet --precisions bf16

Each takes eight labeled words of the corpus without augmentation, AdamW at a constant rate, and stops once it reads all of them in eval mode
(asked every ten steps). The table shows after how many steps that was; a recognizer that has not learned them after --steps fails.
"""

import argparse
import itertools
import time

import torch
from torch import nn

from models.charset import Charset
from models.recognizer import Recognizer
from models.recognizers import RECOGNIZERS, build
from pipelines.corpus import Corpus
from pipelines.images import decode_image
from pipelines.reading import as_input, shape_of

WORDS = 8
CHARSET = Charset.named("36")
RATE = 3e-4
RATES = {"hga": 1e-4}  # a transformer that normalises behind its sums, and no rising rate at the start


def words(corpus: Corpus) -> tuple[list[bytes], list[str]]:
    """The first eight different words that the charset can write."""
    found: dict[str, bytes] = {}
    for table in corpus.rows_iter(["image", "text"]):
        for image, text in zip(table["image"].to_pylist(), table["text"].to_pylist()):
            if text and len(text) <= 25 and not CHARSET.outside(text):
                found.setdefault(CHARSET.normalise(text), image)
            if len(found) == WORDS:
                return list(found.values()), list(found)
    raise SystemExit(f"expected a corpus with {WORDS} different labeled words, found {len(found)}")


def hurry(moran: Recognizer) -> None:
    """Fit MORAN for a hundred steps. As its authors begin, pixels move by half of an image and BatchNorm remembers a hundred steps."""
    nn.init.constant_(moran.rectifier.network[-1].weight, 0.02)
    for norm in (module for module in moran.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 0.1


def overfit(name: str, precision: str, encoded: list[bytes], texts: list[str], steps: int, rate: float) -> tuple[int | None, float]:
    """(steps until all words are read, None if they never were; seconds)."""
    torch.manual_seed(0)
    recognizer = build(name, CHARSET)
    if name == "moran":
        hurry(recognizer)
    images = as_input([decode_image(data, shape_of(recognizer)) for data in encoded], torch.device("cpu"))
    targets, optimizer = recognizer.decoder.encode(texts), torch.optim.AdamW(recognizer.parameters(), lr=rate)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        recognizer.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            decoded = recognizer(images, recognizer.decoder.inputs(targets))
        optimizer.zero_grad()
        recognizer.decoder.loss(decoded, targets).backward()
        torch.nn.utils.clip_grad_norm_(recognizer.parameters(), 5)
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad():
                if recognizer.eval().read(images).texts == texts:
                    return step, time.perf_counter() - started
    return None, time.perf_counter() - started


def main() -> int:
    """Print the table; 1 if a recognizer has not learned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--recognizers", nargs="+", default=list(RECOGNIZERS), metavar="NAME", help="(default: all)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bf16"], choices=["float32", "bf16"])
    parser.add_argument("--steps", type=int, default=400, help="at most (default: 400)")
    parser.add_argument("--rate", type=float, help=f"learning rate (default: {', '.join(f'{rate} for {name}' for name, rate in RATES.items())}, else {RATE})")
    options = parser.parse_args()
    encoded, texts = words(Corpus.open(options.corpus))
    print(f"{', '.join(texts)}\n\n| recognizer | precision | steps | seconds |\n|---|---|---|---|")
    failed = 0
    for name, precision in itertools.product(options.recognizers, options.precisions):
        steps, taken = overfit(name, precision, encoded, texts, options.steps, options.rate or RATES.get(name, RATE))
        failed += steps is None
        print(f"| {name} | {precision} | {'not learned' if steps is None else steps} | {taken:.0f} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
