"""Our recognizers beside the code that the papers' authors published: the same random weights, the same images.

    python -m benchmarks.parity.originals --benchmark ~/deep-text-recognition-benchmark --fewer-labels ~/STR-Fewer-Labels --parseq ~/parseq

Each option takes a checkout; what is not given is not compared. PARSeq's needs its own requirements (timm 0.9.16 and torchvision). Every
module of theirs is filled with random weights, and its state dict read as a published file is: `models.published.from_published`. Compared
are the logits of reading (all steps, also behind the end of a word), those under teacher forcing, and for each parameter the norm of the
gradient of one random sum of the logits. Everything is in eval mode, because both sides would draw their own dropout, and in float64, so that
what differs is the function and not its rounding: while the originals are made and run, what they call a float has 64 bits.
"""

import argparse
import importlib
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import product
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from models.charset import Charset
from models.published import from_published, recognise
from models.recognizer import Recognizer

WORDS = ["textray", "a", "1234567890123456789012345"]
LIMIT = 1e-9  # on logits, relative to the largest, and on norms of gradients, relative


@dataclass
class Original:
    """A module of theirs. `read` and `forced` give its logits; `prepare` sets in ours what no file tells."""

    name: str
    module: nn.Module
    size: tuple[int, int, int]  # channels, height, width of its images
    read: Callable[[Tensor], Tensor]
    charset: Charset
    forced: Callable[[Tensor, Tensor], Tensor] | None = None
    prepare: Callable[[Recognizer], None] = lambda recognizer: None


@contextmanager
def in_float64() -> Iterator[None]:
    """Modules and tensors are made in float64, also where their code names float32."""
    torch.set_default_dtype(torch.float64)
    with (mock.patch.object(torch, "FloatTensor", torch.DoubleTensor), mock.patch.object(torch, "float", torch.float64),
          mock.patch.object(Tensor, "float", Tensor.double)):
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def one_shot(recognizer: Recognizer) -> None:
    """PARSeq writes all symbols at once, and refines them twice."""
    recognizer.decoder.decode, recognizer.decoder.refinements = "one_shot", 2


@contextmanager
def importing(checkout: Path, *packages: str) -> Iterator[None]:
    """Its packages can be imported, and are forgotten afterwards: two of the repositories call theirs `model` and `modules`."""
    sys.path.insert(0, str(checkout))
    yield
    sys.path.remove(str(checkout))
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[name]


def four_stage(checkout: Path, *, fewer_labels: bool) -> Iterator[Original]:
    """The benchmark's 24 combinations, or CRNN and TRBA of the fewer labels."""
    with importing(checkout, "model", "modules"):
        build = importlib.import_module("model").Model
        combinations = product(("None", "TPS"), ("VGG", "RCNN", "ResNet"), ("None", "BiLSTM"), ("CTC", "Attn"))
        for stages in (("None", "VGG", "BiLSTM", "CTC"), ("TPS", "ResNet", "BiLSTM", "Attn")) if fewer_labels else combinations:
            attention = stages[3] == "Attn"
            classes, channels, start = (98 + attention, 3, 2) if fewer_labels else (37 + attention, 1, 0)
            with redirect_stdout(StringIO()):  # it says which stages it has not
                module = build(Namespace(**dict(zip(("Transformation", "FeatureExtraction", "SequenceModeling", "Prediction"), stages, strict=True)),
                                         num_fiducial=20, imgH=32, imgW=100, input_channel=channels, output_channel=512,
                                         hidden_size=256, num_class=classes, batch_max_length=25))
            # The fewer labels read from a row of start symbols, the benchmark from its own zeros.
            yield Original("-".join(stages), module, (channels, 32, 100), charset=Charset.named("94" if fewer_labels else "36"),
                           read=lambda images, module=module, start=start: module(
                               images, torch.full((len(images),) if fewer_labels else (len(images), 27), start), is_train=False),
                           forced=module if attention else None)


def parseq(checkout: Path) -> Iterator[Original]:
    """The hub's models."""
    with importing(checkout, "strhub"):
        charset = Charset.named("94")
        tokenizer = importlib.import_module("strhub.data.utils").Tokenizer(charset.characters)
        crnn = importlib.import_module("strhub.models.crnn.model").CRNN(32, 3, 95, 256)
        yield Original("CRNN", crnn, (3, 32, 128), crnn, charset)
        trba = importlib.import_module("strhub.models.trba.model").TRBA
        attention, ctc = trba(32, 128, 97), trba(32, 128, 95, use_ctc=True)

        def forced(images: Tensor, tokens: Tensor) -> Tensor:
            attention.Prediction.training = True
            logits = attention(images, 25, tokens)
            attention.Prediction.training = False
            return logits

        yield Original("TRBA", attention, (3, 32, 128), lambda images: attention(images, 25, torch.tensor([95])), charset, forced)
        yield Original("TRBC", ctc, (3, 32, 128), lambda images: ctc(images, 25), charset)
        build = importlib.import_module("strhub.models.abinet.model_abinet_iter").ABINetIterModel
        abinet = build(25, 0, 95, iter_size=3, v_num_layers=3)
        yield Original("ABINet", abinet, (3, 32, 128), lambda images: abinet(images)[0]["logits"], charset)
        build = importlib.import_module("strhub.models.vitstr.model").ViTSTR
        for name, size, patch, width, heads in (("tiny", (32, 128), (4, 8), 192, 3), ("small", (32, 128), (4, 8), 384, 6),
                                                ("tiny, 224", (224, 224), (16, 16), 192, 3)):
            vitstr = build(img_size=size, patch_size=patch, depth=12, mlp_ratio=4, qkv_bias=True, embed_dim=width, num_heads=heads,
                           num_classes=95)
            yield Original(f"ViTSTR {name}", vitstr, (3, *size), lambda images, vitstr=vitstr: vitstr(images, 27)[:, 1:], charset)
        build = importlib.import_module("strhub.models.parseq.model").PARSeq
        for name, size, patch, width, heads, ahead in (
                ("tiny", (32, 128), (4, 8), 192, 3, False), ("base", (32, 128), (4, 8), 384, 6, False),
                ("base, one shot", (32, 128), (4, 8), 384, 6, True), ("base, 224", (224, 224), (16, 16), 384, 6, False)):
            module = build(97, 25, size, patch, width, heads, 4, 12, 2 * heads, 4, 1, not ahead, 1 + ahead, 0.1)
            # A length that is given, even the largest, keeps it from stopping early.
            yield Original(f"PARSeq {name}", module, (3, *size), lambda images, module=module: module(tokenizer, images, 25), charset,
                           prepare=one_shot if ahead else Original.prepare)


def randomise(module: nn.Module) -> None:
    """Where initial weights or statistics are all the same, a difference would not be seen."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")) or "localization_fc2" in name:
                tensor.add_(torch.randn_like(tensor) * 0.02)


def compare(original: Original) -> list[tuple[str, float, float]]:
    """(quantity, found, limit) of one module; differences relative to the largest logit."""
    torch.manual_seed(0)
    module = original.module.eval()
    randomise(module)
    recognizer: Recognizer = from_published(module.state_dict(), original.charset)
    recognizer.decoder.stops_early = False
    original.prepare(recognizer)
    images = torch.rand(len(WORDS), *original.size) * 2 - 1
    rows, tokens = [], recognizer.decoder.inputs(recognizer.decoder.encode(WORDS))
    pairs = [("logits", original.read(images), recognizer(images).logits)]
    if original.forced is not None:
        pairs.append(("teacher-forced logits", original.forced(images, tokens), recognizer(images, tokens).logits))
    for quantity, theirs, ours in pairs:
        rows.append((quantity, ((theirs - ours).abs().max() / theirs.abs().max()).item(), LIMIT))
    _, theirs, ours = pairs[-1] if original.forced is not None else pairs[0]
    weights = torch.randn_like(theirs)
    (theirs * weights).sum().backward()
    (ours * weights).sum().backward()
    layout, _ = recognise(module.state_dict(), original.charset)
    wanted = {name: parameter.grad for name, parameter in module.named_parameters()}
    found = {layout.published_name(recognizer, name): parameter.grad for name, parameter in recognizer.named_parameters()}
    norms = {name: (_norm(gradient), _norm(found[name])) for name, gradient in wanted.items()}
    least = 1e-5 * max(theirs for theirs, _ in norms.values())  # what is smaller is what rounding left of terms that cancel
    worst = max(abs(theirs - ours) / max(theirs, least) for theirs, ours in norms.values())
    rows.append(("gradient norms, relative", worst, LIMIT))
    return rows


def _norm(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else gradient.norm().item()


def main() -> int:
    """Print the table; 1 if a difference is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", type=Path, metavar="CHECKOUT", help="clovaai/deep-text-recognition-benchmark")
    parser.add_argument("--fewer-labels", type=Path, metavar="CHECKOUT", help="ku21fan/STR-Fewer-Labels")
    parser.add_argument("--parseq", type=Path, metavar="CHECKOUT", help="baudm/parseq")
    options = parser.parse_args()
    torch.set_num_threads(1)
    families = [("benchmark", options.benchmark, lambda checkout: four_stage(checkout, fewer_labels=False)),
                ("fewer labels", options.fewer_labels, lambda checkout: four_stage(checkout, fewer_labels=True)),
                ("parseq hub", options.parseq, parseq)]
    if not any(checkout for _, checkout, _ in families):
        parser.error("expected a checkout of at least one of the repositories, found none: see --help")
    worst: dict[tuple[str, str], tuple[float, float, str]] = {}
    models = dict.fromkeys((family for family, _, _ in families), 0)
    with in_float64():
        for family, checkout, originals in families:
            for original in originals(checkout) if checkout else ():
                models[family] += 1
                for quantity, found, limit in compare(original):
                    print(f"{family}, {original.name}: {quantity} {found:.1e}", file=sys.stderr)
                    key = (family, f"{quantity}, limit {limit:.0e}")
                    worst[key] = max(worst.get(key, (-1.0, limit, "")), (found, limit, original.name))
    print("| original | models | largest difference of | found | at |\n|---|---|---|---|---|")
    for (family, quantity), (found, _, name) in worst.items():
        print(f"| {family} | {models[family]} | {quantity} | {found:.1e} | {name} |")
    return int(any(found > limit for found, limit, _ in worst.values()))


if __name__ == "__main__":
    raise SystemExit(main())
