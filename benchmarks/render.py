"""How fast synthetic words are drawn on one core: against the target, and against plain PIL text drawing.

    python benchmarks/render.py [--count 2000] [--rounds 7]

Peer and styles take turns, and the best round of each counts, so that other work on the machine weighs on all alike.
The peer draws the same kind of words in one face with PIL's ImageDraw, black on white, 32 pixels high, and encodes
them as JPEG with PIL: no distortion, no texture, no colour.
"""

import argparse
import io
import time
from collections.abc import Callable
from random import Random
from tempfile import TemporaryDirectory

import cv2
from PIL import Image, ImageDraw, ImageFont

from models.charset import Charset
from pipelines.ingestion.chunks import Chunk
from pipelines.ingestion.sources.row import Span
from pipelines.synthesis.corpus import Settings, SyntheticWords, drawn_here
from pipelines.synthesis.styles import STYLES
from pipelines.synthesis.synthesizer import synthesizer
from pipelines.synthesis.words import Words

TARGET = 1000  # images per second and core
WARM_UP = 4000  # pictures that fill the glyph cache


def plain_pil(words: Words, font: ImageFont.FreeTypeFont) -> Callable[[int], bytes]:
    """The peer: word number `index`, drawn by PIL alone."""
    def draw(index: int) -> bytes:
        text = words.draw(Random(index)).drawn
        left, top, right, bottom = font.getbbox(text)
        image = Image.new("RGB", (int(right - left) + 6, int(bottom - top) + 6), "white")
        ImageDraw.Draw(image).text((3 - left, 3 - top), text, fill="black", font=font)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75)
        return file.getvalue()
    return draw


def seconds(draw: Callable[[int], object], start: int, count: int) -> tuple[float, float]:
    """CPU and wall seconds that `count` pictures take."""
    wall, cpu = time.perf_counter(), time.process_time()
    for index in range(start, start + count):
        draw(index)
    return time.process_time() - cpu, time.perf_counter() - wall


def corpus_seconds(start: int, count: int) -> tuple[float, float]:
    """CPU and wall seconds that the same pictures take on their way into a corpus."""
    words = SyntheticWords("scene", start + count, Settings("scene"))
    with TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        list(drawn_here([Chunk(words.name, 0, Span(words, start, start + count))], folder, folder))
        return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--count", type=int, default=2000, help="pictures in a round")
    options.add_argument("--rounds", type=int, default=7)
    given = options.parse_args()
    cv2.setNumThreads(0)
    faces = {face.name: face for face in synthesizer("scene").faces}
    peer = plain_pil(Words(Charset.named("94")), ImageFont.truetype(str(faces["Roboto-Bold"].path), 28))
    subjects = {"plain PIL text": peer}
    subjects |= {f"render, {style}": (lambda index, draw=synthesizer(style): draw.render(0, index)) for style in STYLES}
    for draw in subjects.values():
        seconds(draw, 10**6, WARM_UP)
    subjects["corpus, scene"] = None  # drawn, decoded, hashed and written as Parquet
    best = {name: (float("inf"), float("inf")) for name in subjects}
    for turn in range(given.rounds):
        for name, draw in subjects.items():
            start = turn * given.count
            spent = seconds(draw, start, given.count) if draw else corpus_seconds(start, given.count)
            best[name] = min(best[name], spent)
    target = f"x target of {TARGET}"
    print(f"{'one core':<18} {'images/s (CPU)':>15} {'images/s (wall)':>16} {target:>18} {'x plain PIL':>12}")
    reference = given.count / best["plain PIL text"][0]
    for name, (cpu, wall) in best.items():
        rate = given.count / cpu
        print(f"{name:<18} {rate:15,.0f} {given.count / wall:16,.0f} {rate / TARGET:18.2f} {rate / reference:12.2f}")


if __name__ == "__main__":
    main()
