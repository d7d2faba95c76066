"""`textray doctor`: what this machine has, and what would fail."""

import importlib.metadata
import json
import os
import shutil
import sys
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.arguments import Parser, add_json

GIB = 1024**3
PACKAGES = ("torch", "ray", "mlflow", "pyarrow", "pydantic", "numpy", "opencv-python-headless", "lmdb", "pillow", "wordfreq")


@dataclass(frozen=True)
class Finding:
    """One line of the report. `problem` says what would fail and what to do; empty if nothing would."""

    name: str
    value: str
    problem: str = ""
    fatal: bool = False


def examine() -> list[Finding]:
    """Everything that decides whether the commands work here."""
    return [_python(), *_packages(), _cpus(), _gpus(), _memory(), _disk(), _shared_memory(), _ray(), _tracking()]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding("Python", found, "" if fits else "expected 3.11 or 3.12; install one of them and run `make setup`", not fits)


def _packages() -> list[Finding]:
    findings = []
    for package in PACKAGES:
        try:
            findings.append(Finding(package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(package, "missing", "nothing that needs it can run; `make setup` installs it", True))
    return findings


def _cpus() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("CPUs", str(count), "" if count > 1 else "one CPU must train and read at once; set training.cpus_per_worker=0.5")


def _gpus() -> Finding:
    import torch
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return Finding("GPUs", ", ".join(names) or "none", "" if names else "training runs on the CPU: use the *_tiny recognizers")


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    file = Path("/proc/meminfo")
    lines = dict(line.split(":") for line in file.read_text(encoding="utf-8").splitlines()) if file.is_file() else {}
    free = int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else total
    return Finding("memory", f"{free / GIB:.1f} of {total / GIB:.1f} GiB free",
                   "" if free > 4 * GIB else "training with Ray wants 4 GiB free; close something")


def _disk() -> Finding:
    usage = shutil.disk_usage(Path.cwd())
    return Finding("disk here", f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free",
                   "" if usage.free > 2 * GIB else "the demo needs 2 GiB, a corpus about 3 kB an image; free some or work elsewhere")


def _shared_memory() -> Finding:
    place = Path("/dev/shm")
    if not place.is_dir():
        return Finding("/dev/shm", "none", "Ray keeps its objects on disk instead, which is slow")
    free = shutil.disk_usage(place).free
    return Finding("/dev/shm", f"{free / GIB:.1f} GiB free",
                   "" if free > GIB else "Ray falls back to disk, which is slow; give the container --shm-size=2g or more")


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Finding("Ray", "local: each command that needs one starts its own (RAY_ADDRESS is not set)")
    import ray
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as problem:
        return Finding("Ray", address, f"no cluster answers there ({str(problem).splitlines()[0]}); unset RAY_ADDRESS or start it", True)
    resources = ray.cluster_resources()
    return Finding("Ray", f"{address}: {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, {len(ray.nodes())} nodes")


def _tracking() -> Finding:
    from pipelines.handles import shown_uri, tracking_uri
    uri = tracking_uri()
    if uri.startswith("sqlite:") and not os.access(Path(uri.removeprefix("sqlite:///")).parent, os.W_OK):
        return Finding("MLflow", shown_uri(), "the folder cannot be written; run elsewhere or set MLFLOW_TRACKING_URI", True)
    return Finding("MLflow", shown_uri())


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit status 1 if something would fail."""
    parser = Parser(prog="textray doctor", description="Say what this machine has, and what would fail.",
                                     epilog="example: textray doctor", formatter_class=RawDescriptionHelpFormatter)
    add_json(parser, "the findings")
    as_json = parser.parse_args(argv).json
    findings = examine()
    if as_json:
        print(json.dumps([{**asdict(finding), "ok": not finding.problem} for finding in findings], indent=1))
        return int(any(finding.fatal for finding in findings))
    for finding in findings:
        mark = "FAILS" if finding.fatal else "note" if finding.problem else "ok"
        print(f"{mark:<5} {finding.name:<24} {finding.value}" + (f"\n{'':<31}{finding.problem}" if finding.problem else ""))
    fatal = sum(finding.fatal for finding in findings)
    print("\neverything that textray needs is here" if not fatal else f"\n{fatal} of these must be mended first")
    return 1 if fatal else 0


if __name__ == "__main__":
    from pipelines.cli import run

    raise SystemExit(run("doctor"))
