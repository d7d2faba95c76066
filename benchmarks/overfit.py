"""Whether every recognizer can learn: eight real words by heart, in float32 and in mixed precision (bf16).

    python benchmarks/overfit.py corpora/words                      all recognizers (about an hour on one core)
    python benchmarks/overfit.py corpora/words --recognizers hga abinet

Each takes eight labeled words of the corpus without augmentation, AdamW at a constant rate, and stops once it reads all of them in eval mode
and in the same precision (asked every ten steps). The table shows after how many steps that was; a recognizer that has not learned them
after --steps fails.
"""

import argparse

import torch
from torch import nn

from models.charset import Charset
from models.encoders.morn import MORN
from models.recognizer import Recognizer
from models.recognizers import RECOGNIZERS, build
from pipelines.corpus.images import decode_image
from pipelines.corpus.reader import Corpus
from pipelines.reading.batches import as_input, shape_of

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


def begin(recognizer: Recognizer) -> None:
    """MORAN begins smaller than its authors': there pixels move by half of an image, and BatchNorm remembers hundreds of steps."""
    if isinstance(recognizer.rectifier, MORN):
        nn.init.constant_(recognizer.rectifier.network[-1].weight, 0.02)
        for norm in (module for module in recognizer.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = 0.1


def overfit(name: str, mixed: bool, encoded: list[bytes], texts: list[str], steps: int) -> int | None:
    """Steps until all words are read, None if they never were."""
    torch.manual_seed(0)
    recognizer = build(name, CHARSET).to(memory_format=torch.channels_last)  # as it is trained
    begin(recognizer)
    images = as_input([decode_image(data, shape_of(recognizer)) for data in encoded], torch.device("cpu"))
    targets, optimizer = recognizer.decoder.encode(texts), torch.optim.AdamW(recognizer.parameters(), lr=RATES.get(name, RATE))
    for step in range(1, steps + 1):
        recognizer.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            decoded = recognizer(images, recognizer.decoder.inputs(targets))
        optimizer.zero_grad()
        recognizer.decoder.loss(decoded, targets).backward()
        torch.nn.utils.clip_grad_norm_(recognizer.parameters(), 5)
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                if recognizer.eval().read(images).texts == texts:
                    return step
    return None


def main() -> int:
    """Print the table; 1 if a recognizer has not learned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--recognizers", nargs="+", default=list(RECOGNIZERS), metavar="NAME", help="(default: all)")
    parser.add_argument("--steps", type=int, default=500, help="at most (default: 500)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that the table does not depend on how a machine's cores divide a sum
    encoded, texts = words(Corpus.open(options.corpus))
    print(f"{', '.join(texts)}\n\n| recognizer | steps in float32 | steps in bf16 |\n|---|---|---|")
    failed = False
    for name in options.recognizers:
        needed = [overfit(name, mixed, encoded, texts, options.steps) for mixed in (False, True)]
        failed |= None in needed
        print(f"| {name} | {' | '.join('not learned' if steps is None else str(steps) for steps in needed)} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
