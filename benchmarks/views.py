"""Rate of the augmentations on one CPU thread, against the imgaug pipelines that SeqCLR and SemiMTR published.

example: python benchmarks/views.py
"""

import platform
import time

import torch

from pipelines.views import VIEWS, augment

BATCH = 256
IMGAUG_RATE = 1800  # images/s on one core: the faster of the two published imgaug pipelines (1000 to 1800), same kind of machine
SECONDS = 3.0


def rate(name: str, height: int, width: int) -> float:
    """Images per second: the median over batches of random images, after two to warm up."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (BATCH, 3, height, width), generator=generator, dtype=torch.uint8)
    times = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(times) < 5:
        start = time.perf_counter()
        augment(images, name, generator)
        times.append(time.perf_counter() - start)
    return BATCH / sorted(times[2:])[len(times[2:]) // 2]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, batch {BATCH}, images/s; ratio to imgaug at {IMGAUG_RATE}\n")
    print("| view | 32x100 | ratio | 32x128 | ratio |\n|---|---|---|---|---|")
    for name in VIEWS:
        narrow, wide = rate(name, 32, 100), rate(name, 32, 128)
        print(f"| {name} | {narrow:,.0f} | {narrow / IMGAUG_RATE:.1f} | {wide:,.0f} | {wide / IMGAUG_RATE:.1f} |")


if __name__ == "__main__":
    main()
