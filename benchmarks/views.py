"""Rate of the augmentations, against the imgaug pipelines that SeqCLR and SemiMTR published, and their share of a training step.

    python benchmarks/views.py                                  on one CPU core
    python benchmarks/views.py --imgaug peer/bin/python         beside imgaug, timed in the same run by an interpreter that has it: see imgaug_views.py
    python benchmarks/views.py --device cuda                    on a GPU: the rate is of the whole device, the steps run in bf16
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from models.batch import Batch, Part
from models.charset import Charset
from models.objectives.supervised import Supervised
from models.recognizers import build
from pipelines.augmentation.views import VIEWS, augment

BATCH = 256
BATCHES = 30
WIDTHS = (100, 128)
RECOGNIZERS = ("crnn_tiny", "crnn", "trba")


def shaded_images(height: int, width: int) -> torch.Tensor:
    """(BATCH, 3, height, width) uint8: smooth shading with a little noise; neighbours look alike as in photographs."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(BATCH, 3, 5, 12, generator=generator) * 235
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth + 20 * torch.rand(smooth.shape, generator=generator)).to(torch.uint8)


def seconds(work: Callable[[], object], device: str, repetitions: int) -> float:
    """The median of a piece of work: the thread's own time on a CPU (not what it waited for), the time to the device's answer on a GPU."""
    times = []
    for _ in range(repetitions):
        if device == "cpu":
            start = time.thread_time()
            work()
            times.append(time.thread_time() - start)
        else:
            torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return sorted(times)[repetitions // 2]


def view_seconds(name: str, width: int, device: str) -> float:
    """Of one batch."""
    images, generator = shaded_images(32, width).to(device), torch.Generator().manual_seed(1)
    return seconds(lambda: augment(images, name, generator), device, BATCHES)


def imgaug_rates(python: str, width: int) -> dict[str, float]:
    """Images/s of the published pipelines on the same images, by view."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "images.npy")
        np.save(file, shaded_images(32, width).permute(0, 2, 3, 1).numpy())
        done = subprocess.run([python, str(Path(__file__).with_name("imgaug_views.py")), str(file)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def step_seconds(recognizer: str, device: str) -> float:
    """Of one supervised training step on views of one batch, 32 x 100."""
    objective = Supervised(build(recognizer, Charset.named("36"))).to(device)
    optimizer = torch.optim.AdamW(objective.parameters())
    images = augment(shaded_images(32, 100).to(device), "none", torch.Generator().manual_seed(1))
    words = ["scenetext"] * BATCH
    targets = objective.recognizer.decoder.encode(words, device)
    batch = Batch(labeled=Part(images, [str(number) for number in range(BATCH)], words, targets, (images,)))

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            losses = objective(batch)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return seconds(step, device, 2 if device == "cpu" else BATCHES)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="(default: cpu)")
    parser.add_argument("--imgaug", metavar="PYTHON", help="an interpreter with imgaug, to time beside")
    options = parser.parse_args()
    device = options.device
    torch.set_num_threads(1)
    where = f"{torch.backends.cpu.get_cpu_capability()}, one thread" if device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}, batch {BATCH}: images/s\n")
    peers = {width: imgaug_rates(options.imgaug, width) if options.imgaug else {} for width in WIDTHS}
    print("| view |" + "".join(f" 32x{width} | imgaug | ratio |" for width in WIDTHS) + "\n|---|" + "---|---|---|" * len(WIDTHS))
    took = {}
    for name in VIEWS:
        cells = []
        for width in WIDTHS:
            took[name, width] = view_seconds(name, width, device)
            found, peer = BATCH / took[name, width], peers[width].get(name)
            cells += [f"{found:,.0f}", *((f"{peer:,.0f}", f"{found / peer:.1f}") if peer else ("", ""))]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\nshare of a training step at 32x100: view / (view + step)\n\n| recognizer | step, images/s | {' | '.join(VIEWS)} |\n|---|---{'|---' * len(VIEWS)}|")
    for recognizer in RECOGNIZERS:
        step = step_seconds(recognizer, device)
        shares = (f"{took[name, 100] / (took[name, 100] + step):.1%}" for name in VIEWS)
        print(f"| {recognizer} | {BATCH / step:,.0f} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
