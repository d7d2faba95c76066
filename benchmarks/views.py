"""Rate of the augmentations on one CPU core, against the imgaug pipelines that SeqCLR and SemiMTR published.

example: python benchmarks/views.py
"""

import time

import torch
import torch.nn.functional as F

from pipelines.views import VIEWS, augment

BATCH = 256
BATCHES = 30
IMGAUG = (1000, 1800)  # images/s on one core: measured for the two published imgaug pipelines on a machine of this kind


def shaded_images(height: int, width: int) -> torch.Tensor:
    """(BATCH, 3, height, width) uint8: smooth shading with a little noise; neighbours look alike as in photographs."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(BATCH, 3, 5, 12, generator=generator) * 235
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth + 20 * torch.rand(smooth.shape, generator=generator)).to(torch.uint8)


def rate(name: str, height: int, width: int) -> float:
    """Images per second of one core's time (what the thread used, not what it waited for): the median batch's."""
    images, generator, times = shaded_images(height, width), torch.Generator().manual_seed(1), []
    for _ in range(BATCHES):
        start = time.thread_time()
        augment(images, name, generator)
        times.append(time.thread_time() - start)
    return BATCH / sorted(times)[BATCHES // 2]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    processor = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {processor}, one thread, batch {BATCH}: images/s per core")
    print(f"ratio: to imgaug's {IMGAUG[1]} and {IMGAUG[0]} images/s per core\n")
    print("| view | 32x100 | ratio | 32x128 | ratio |\n|---|---|---|---|---|")
    for name in VIEWS:
        cells = []
        for width in (100, 128):
            found = rate(name, 32, width)
            cells.append(f"{found:,.0f} | {found / IMGAUG[1]:.1f}–{found / IMGAUG[0]:.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
