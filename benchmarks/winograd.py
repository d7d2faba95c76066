"""Whether Winograd's convolution (models/encoders/winograd.py) pays on this machine's CPU, in mixed precision.

    python benchmarks/winograd.py

First each wide layer of crnn, trba and abinet alone: PyTorch's convolution, ours, what of ours is products and what the sums around them, and
how many times as fast products would have to be for ours to gain nothing, if sums stayed as fast as they are. Then whole recognizers,
reading with and without it in turns, each time in a process of its own; whether textray itself would use it here is said at the end.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F

from models.charset import Charset
from models.encoders import winograd
from models.recognizers import build

LAYERS = {"crnn": ((256, 256, 8, 25), (256, 512, 4, 25), (512, 512, 4, 25)), "trba": ((256, 256, 8, 26), (256, 512, 4, 27), (512, 512, 4, 27)),
          "abinet": ((256, 256, 8, 32), (512, 512, 8, 32))}  # channels, out_channels, height, width


def milliseconds(work: Callable[[], object], calls: int = 9) -> float:
    """Of one call, the median; two more come first."""
    times = []
    for number in range(calls + 2):
        started = time.perf_counter()
        work()
        if number >= 2:
            times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


@torch.no_grad()
def layer(channels: int, out_channels: int, height: int, width: int, batch: int) -> tuple[float, float, float]:
    """Milliseconds of PyTorch's convolution, of ours, and of the products in ours."""
    x = torch.randn(batch, channels, height, width).bfloat16().to(memory_format=torch.channels_last)
    weight = torch.randn(out_channels, channels, 3, 3).bfloat16().to(memory_format=torch.channels_last)
    products, multiply = [], torch.bmm

    def timed(*factors: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        made = multiply(*factors)
        products[-1] += 1000 * (time.perf_counter() - started)
        return made

    def ours() -> None:
        products.append(0.0)
        winograd.convolve(x, weight)

    direct = milliseconds(lambda: F.conv2d(x, weight, padding=1))
    with mock.patch.object(torch, "bmm", timed):
        return direct, milliseconds(ours), statistics.median(products[2:])


@torch.no_grad()
def reading(name: str, used: bool, batch: int) -> float:
    """Images per second of a recognizer in mixed precision, whose words never end."""
    with mock.patch.object(winograd, "saves_time", lambda: used), torch.autocast("cpu", torch.bfloat16):
        recognizer = build(name, Charset.named("36")).to(memory_format=torch.channels_last).eval()
        images = torch.rand(batch, 3, recognizer.height, recognizer.width) * 2 - 1
        return 1000 * batch / milliseconds(lambda: recognizer.decoder(recognizer.encode(images)), 5)


def main(arguments: list[str]) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: as many as cores)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.one:
        print(reading(options.one[0], options.one[1] == "with", options.batch))
        return
    print("| layer | PyTorch's, ms | ours, ms | products | sums | gain | no gain where products are |\n|---|---|---|---|---|---|---|")
    for name, shapes in LAYERS.items():
        for shape in shapes:
            direct, ours, products = layer(*shape, options.batch)
            even = (direct - products) / (ours - products)
            print(f"| {name}, {shape[0]} to {shape[1]} channels, {shape[2]} x {shape[3]} | {direct:.1f} | {ours:.1f} | {products:.1f} | "
                  f"{ours - products:.1f} | {direct / ours:.2f} | {even:.1f} times as fast |", flush=True)
    print("\n| recognizer | without, images/s | with | gain |\n|---|---|---|---|")
    for name in LAYERS:
        found = {"without": [], "with": []}
        for _ in range(options.rounds):
            for way, rates in found.items():
                command = [sys.executable, __file__, *arguments, "--one", name, way]
                rates.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        without, with_it = (statistics.median(rates) for rates in found.values())
        print(f"| {name} | {without:.1f} | {with_it:.1f} | {with_it / without:.2f} |", flush=True)
    print(f"\ntextray {'uses' if winograd.saves_time() else 'does not use'} it on this processor")


if __name__ == "__main__":
    main(sys.argv[1:])
