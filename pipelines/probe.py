"""`textray probe`: what a pretrained encoder is worth, by fractions of the labels, from a run to the table's rows."""

import argparse
from statistics import mean, stdev

from pipelines.arguments import Parser, add_data, add_precision, add_seeds, positive
from pipelines.corpus import storage
from pipelines.corpus.account import table
from pipelines.errors import BadInput
from pipelines.ingestion.brought import brought_in
from pipelines.ingestion.wordsets import open_sets
from pipelines.reading.weights import file_safe
from pipelines.training.probing import Probe, Probed, probe

DESCRIPTION = """Fine-tune a pretrained model on fractions of the labels, over several seeds, and measure each: mean and spread in one table.
  label fractions (SeqCLR, PerSec)     the whole model is trained: the default
  decoder evaluation                   the encoder rests and a new decoder is trained: --freeze
--baseline adds the same from nothing, without pretraining. Each probe is a run of its own (RUNS/NAME-...); stopped or killed, the same
command goes on."""
EXAMPLE = """example:
  textray probe seqclr_crnn_tiny --labeled corpora/wires-train --data wires=corpora/wires-test --fractions 0.05,0.1,1 --seeds 3 --baseline"""


def parser() -> argparse.ArgumentParser:
    """The command line of `textray probe`."""
    arguments = Parser(prog="textray probe", description=DESCRIPTION, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", help="a run's name or folder, a model folder, or models:/NAME@champion")
    arguments.add_argument("--labeled", required=True, metavar="CORPUS", help="the words to train on, of which fractions are drawn by a hash of their keys")
    arguments.renamed("--labels", "--labeled CORPUS")
    add_data(arguments, "each probe is measured on them", required=True)
    arguments.add_argument("--fractions", type=_fractions, default=[0.05, 0.1, 1.0], metavar="P,P,...", help="of the labels (default: 0.05,0.1,1)")
    add_seeds(arguments, 3, "0 to N - 1")
    arguments.add_argument("--baseline", action="store_true", help="also without pretraining")
    arguments.add_argument("--freeze", action="store_true", help="let the encoder rest")
    arguments.add_argument("--recognizer", metavar="NAME", help="another decoder on the same encoder, such as trba_tiny behind crnn_tiny's")
    arguments.add_argument("--steps", type=int, default=1000, metavar="N", help="of each probe (default: 1000)")
    arguments.add_argument("--learning-rate", type=positive, default=1e-3, metavar="RATE", help="(default: 0.001)")
    add_precision(arguments, ("auto", "float32", "bf16"), "of training; auto: bf16 on a GPU that has it")
    arguments.add_argument("--prefix", metavar="NAME", help="with which the names of the probes' runs begin (default: MODEL-probe)")
    arguments.renamed("--name", "--prefix NAME")
    arguments.add_argument("--runs", default="runs", metavar="FOLDER", help="(default: runs)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray probe`."""
    options = parser().parse_args(argv)
    for name in ("seeds", "steps"):
        if getattr(options, name) < 1:
            raise BadInput(f"--{name}: expected at least 1, found {getattr(options, name)}")
    plan = Probe(options.model, brought_in(options.labeled), open_sets(options.data), options.prefix or f"{file_safe(options.model)}-probe",
                 options.recognizer, options.freeze, options.steps, options.learning_rate, options.precision, options.runs)
    done = []
    for probed in probe(plan, options.fractions, list(range(options.seeds)), options.baseline):
        done.append(probed)
        print(f"{probed.start}, {probed.fraction:.3g} of the labels, seed {probed.seed}: "
              + ", ".join(f"{name} {100 * value:.2f} %" for name, value in probed.accuracies.items()) + f"  {storage.shown(probed.run)}", flush=True)
    print("\n" + as_table(done))
    return 0


def as_table(done: list[Probed]) -> str:
    """A row for each start and fraction, a column for each set: mean and standard deviation of the seeds; below them what pretraining adds seed by seed."""
    sets = list(done[0].accuracies)
    rows = []
    for start, fraction in dict.fromkeys((one.start, one.fraction) for one in done):
        group = [one for one in done if (one.start, one.fraction) == (start, fraction)]
        rows.append([start, f"{fraction:.3g}", f"{mean(one.labels for one in group):,.0f}", str(len(group)),
                     *(_spread([one.accuracies[name] for one in group]) for name in sets)])
    if any(one.start == "none" for one in done):
        for fraction in dict.fromkeys(one.fraction for one in done):
            pairs = [(one, other) for one in done for other in done
                     if (one.start, other.start) == ("pretrained", "none") and one.fraction == other.fraction == fraction and one.seed == other.seed]
            rows.append(["difference", f"{fraction:.3g}", "", str(len(pairs)),
                         *(_spread([one.accuracies[name] - other.accuracies[name] for one, other in pairs], sign="+") for name in sets)])
    return table(["pretraining", "fraction", "labels", "seeds", *(f"{name} %" for name in sets)], rows)


def _spread(values: list[float], sign: str = "") -> str:
    return f"{100 * mean(values):{sign}.2f}" + (f" ± {100 * stdev(values):.2f}" if len(values) > 1 else "")


def _fractions(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < part <= 1 for part in found):
        raise argparse.ArgumentTypeError(f"expected shares above 0 and up to 1, such as 0.05,0.1,1, found {text!r}")
    return found


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("probe"))
