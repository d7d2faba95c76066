"""How many words of a corpus probably stand on their head: those that a model reads clearly more surely when they are turned."""

from dataclasses import dataclass

from pipelines.corpus.reader import Corpus
from pipelines.corpus.sampling import sampled_rows
from pipelines.evaluation.metrics import wilson_interval
from pipelines.ingestion.sources.row import Row
from pipelines.prediction.labeler import Reader
from pipelines.progress import Progress

IMAGES = 1000  # that are looked at
LEAST = 0.5  # confidence of the surer reading, below which a word says nothing
SURER = 2.0  # times as sure a word must be read when it is turned: of upright words, too, some are read a little more surely so
MISTAKEN = 0.05  # share of upright words that a model may take for turned ones all the same: on photographs and drawn words, all upright, two did so with 1 to 2 in 100
TURNED_SHOWN = 24


@dataclass(frozen=True)
class Orientation:
    """Of so many images looked at, those that are read confidently one way or the other, and of these the ones upside down."""

    model: str
    looked: int
    read: int
    upside_down: int
    shown: list[tuple[str, bytes, str | None]]  # key, image and label of the surest upside down

    @property
    def share(self) -> float:
        """Upside down, of those that are read, in [0, 1]."""
        return self.upside_down / self.read if self.read else 0.0

    @property
    def clear(self) -> bool:
        """Whether they are more than mistakes of the model would make, beyond the chance of this sample."""
        return self.read > 0 and wilson_interval(self.upside_down, self.read)[0] > MISTAKEN


def orientation(corpus: Corpus, model: str, reader: Reader, upright: Reader, images: int = IMAGES) -> Orientation:
    """Of a sample of a corpus, read by a reader that looks both ways up (`both_ways_up` of its manner), and by one that reads words as they stand."""
    rows = [Row(*row) for row in sampled_rows([corpus], images, ("key", "image", "text"))]
    progress = Progress("orientation", len(rows), "images")
    read, turned = 0, []
    try:
        for row, found in reader.read(iter(rows)):
            progress.add(1)
            if found.problem is None and found.text and found.confidence >= LEAST:
                read += 1
                turned += [(found.confidence, row)] if found.upside_down else []
    finally:
        progress.close()
    standing = upright.read(row for _, row in turned)
    turned = [pair for pair, (_, found) in zip(turned, standing, strict=True) if pair[0] >= SURER * found.confidence]
    turned.sort(key=lambda pair: (-pair[0], pair[1].key))
    return Orientation(model, len(rows), read, len(turned), [(row.key, row.image, row.text) for _, row in turned[:TURNED_SHOWN]])
