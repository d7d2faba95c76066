"""Speed of the recognizers: training steps and reading, and what share of the processor's arithmetic they use.

    python benchmarks/recognizers.py                                    crnn, trba, abinet, moran, parseq on this machine's CPU
    python benchmarks/recognizers.py --peer ~/deep-text-recognition-benchmark --recognizers crnn trba
    python benchmarks/recognizers.py --device cuda --batch 256 --peer ~/deep-text-recognition-benchmark
    python benchmarks/recognizers.py --operations --recognizers crnn trba          where the time of a bf16 training step goes

--peer takes a checkout of the four-stage benchmark's original code (model.py and modules/), which runs crnn and trba with its own training
step on the same images, labels and optimizer. Contestants take turns (A B A B …), each time in a process of its own; the table shows
medians over the rounds. Ways to compute:
  float32    as it is built
  last       float32, channels last
  bf16       mixed precision, channels last
  compiled   bf16, and torch.compile of what comes before the decoder (a first call of a minute or more is not counted)
The share is of what one large matrix product reaches in the same precision in the same process; a training step counts three times the
multiply-adds of a forward pass. Reading is greedy and, as weights are random, never stops before max_length.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.charset import Charset
from models.costs import costs
from models.recognizers import build

WAYS = ("float32", "last", "bf16", "compiled")
LENGTH = 9  # characters of every label
PEERS = {"crnn": ("None", "VGG", "CTC", 37), "trba": ("TPS", "ResNet", "Attn", 38)}


def our_work(name: str, way: str, images: Tensor, device: str) -> tuple[nn.Module, Callable[[], Tensor], Callable[[], object]]:
    """(module, one training loss, one reading)."""
    recognizer = build(name, Charset.named("36")).to(device)
    if way != "float32":
        recognizer = recognizer.to(memory_format=torch.channels_last)
    decoder = recognizer.decoder
    targets = decoder.encode(["scenetext"] * len(images), device)
    encode = torch.compile(recognizer.encode) if way == "compiled" else recognizer.encode
    mixed = way in ("bf16", "compiled")

    def loss() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            decoded = decoder(encode(images), decoder.inputs(targets))
        return decoder.loss(decoded, targets)

    def read() -> object:
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            return decoder(encode(images))

    return recognizer, loss, read


def peer_work(name: str, checkout: str, images: Tensor, device: str) -> tuple[nn.Module, Callable[[], Tensor], Callable[[], object]]:
    """The same of the original code."""
    sys.path.insert(0, checkout)
    from model import Model
    transformation, features, prediction, classes = PEERS[name]
    count, images = len(images), images.mean(1, keepdim=True)
    model = Model(Namespace(Transformation=transformation, FeatureExtraction=features, SequenceModeling="BiLSTM", Prediction=prediction,
                            num_fiducial=20, imgH=32, imgW=100, input_channel=1, output_channel=512, hidden_size=256, num_class=classes,
                            batch_max_length=25)).to(device)
    text = torch.zeros(count, 27, dtype=torch.int64, device=device)
    text[:, 1:1 + LENGTH] = torch.randint(2, classes, (count, LENGTH), device=device)
    text[:, 1 + LENGTH] = 1

    def loss() -> Tensor:
        outputs = model(images, text[:, :-1])
        if prediction == "Attn":
            return F.cross_entropy(outputs.flatten(0, 1), text[:, 1:].flatten(), ignore_index=0)
        frames, lengths = torch.full((count,), outputs.shape[1]), torch.full((count,), LENGTH)
        return F.ctc_loss(outputs.log_softmax(2).permute(1, 0, 2), text[:, 1:1 + LENGTH], frames, lengths, zero_infinity=True)

    return model, loss, lambda: model(images, text[:, :-1], is_train=False)


def seconds(work: Callable[[], object], device: str, least: float) -> float:
    """Of one call: the median of those that fit into `least` seconds, at least three; two more come first."""
    times = []
    for number in range(10_000):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            times.append(time.perf_counter() - started)
        if len(times) >= 3 and sum(times) > least:
            break
    return statistics.median(times)


def arithmetic_limit(device: str, precision: torch.dtype) -> float:
    """Multiply-adds per second of one large matrix product."""
    size = 8192 if device == "cuda" else 2048
    matrix = torch.rand(size, size, device=device).to(precision)
    return size**3 / seconds(lambda: matrix @ matrix, device, 1)


def measure(name: str, way: str, options: argparse.Namespace) -> dict[str, float]:
    """What one process finds: images/s of training and reading, megabytes, and the shares of the limit."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    height, width = (32, 100) if way == "peer" else (lambda recognizer: (recognizer.height, recognizer.width))(_weightless(name))
    images = torch.rand(options.batch, 3, height, width, device=options.device) * 2 - 1
    module, loss, read = peer_work(name, options.peer, images, options.device) if way == "peer" else our_work(name, way, images, options.device)
    optimizer = torch.optim.Adadelta(module.parameters(), lr=1.0, rho=0.95, eps=1e-8)

    def step() -> None:
        total = loss()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 5)
        optimizer.step()

    training = options.batch / seconds(step, options.device, options.seconds)
    module.eval()
    with torch.no_grad():
        reading = options.batch / seconds(read, options.device, options.seconds)
    memory = torch.cuda.max_memory_allocated() / 1e6 if options.device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    limit = arithmetic_limit(options.device, torch.bfloat16 if way in ("bf16", "compiled") else torch.float32)
    needed = costs(_weightless(name))["all"].multiply_adds
    return {"training": training, "reading": reading, "memory": memory,
            "training_share": 3 * needed * training / limit, "reading_share": needed * reading / limit}


def _weightless(name: str):
    with torch.device("meta"):
        return build(name, Charset.named("36"))


KINDS = {"convolutions": "convolution", "LSTM": "rnn", "normalisation": "norm", "pooling": "pool", "matrix products": "mm"}  # by their names


def operations(name: str, options: argparse.Namespace) -> dict[str, float]:
    """The shares of a bf16 training step's time by kinds of operations, the optimizer's among the others."""
    torch.set_num_threads(options.threads)
    recognizer = _weightless(name)
    images = torch.rand(options.batch, 3, recognizer.height, recognizer.width, device=options.device) * 2 - 1
    module, loss, _ = our_work(name, "bf16", images, options.device)
    optimizer = torch.optim.Adadelta(module.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    step()
    with torch.profiler.profile() as profile:
        step()
    shares = dict.fromkeys([*KINDS, "others"], 0.0)
    events = profile.key_averages()
    time_of = (lambda event: event.self_device_time_total) if options.device == "cuda" else (lambda event: event.self_cpu_time_total)
    for event in events:
        kind = next((kind for kind, part in KINDS.items() if part in event.key), "others")
        shares[kind] += time_of(event) / sum(map(time_of, events))
    return shares


def in_process(name: str, way: str, arguments: list[str]) -> dict[str, float]:
    """`measure` in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments, "--one", name, way], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} {way} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recognizers", nargs="+", default=["crnn", "trba", "abinet", "moran", "parseq"], metavar="NAME")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, metavar="WAY", help=f"of {', '.join(WAYS)} (default: all)")
    parser.add_argument("--peer", type=lambda path: str(Path(path).expanduser()), help="a checkout of the original code")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: as many as cores)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement, at least three calls (default: 5)")
    parser.add_argument("--operations", action="store_true", help="say where the time of a training step goes, and measure nothing else")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(*options.one, options)))
        return
    if options.operations:
        print(f"| recognizer | {' | '.join([*KINDS, 'others'])} |\n|---|{'---|' * (len(KINDS) + 1)}")
        for name in options.recognizers:
            print(f"| {name} | {' | '.join(f'{share:.0%}' for share in operations(name, options).values())} |", flush=True)
        return
    if options.peer and not Path(options.peer, "model.py").is_file():
        parser.error(f"--peer: expected a checkout of the original code with model.py, found none in {options.peer}")
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU with {torch.backends.cpu.get_cpu_capability()}, {options.threads} threads"
    print(f"torch {torch.__version__}, {where}, batch {options.batch}, medians of {options.rounds} rounds\n")
    print("| recognizer | way | training, images/s | to peer | reading, images/s | to peer | memory, MB | limit, training | limit, reading |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.recognizers:
        ways = (["peer"] if options.peer and name in PEERS else []) + list(options.ways)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way in ways:
                found[way].append(in_process(name, way, arguments))
        medians = {way: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for way, runs in found.items()}
        for way, median in medians.items():
            ratios = {key: f"{median[key] / medians['peer'][key]:.2f}" if "peer" in medians else "" for key in ("training", "reading")}
            print(f"| {name} | {way} | {median['training']:,.1f} | {ratios['training']} | {median['reading']:,.1f} | {ratios['reading']} | "
                  f"{median['memory']:,.0f} | {median['training_share']:.0%} | {median['reading_share']:.0%} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
