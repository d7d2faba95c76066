"""What becomes of commands whose stores are away for a while: the object store under an ingest and a training, MLflow's server under a training.

    python benchmarks/drills/stores.py [CASE ...]

The servers are real ones in processes of their own (moto's for S3, `mlflow server`), with a relay before them that hands bytes on, and that
answers 503 or cuts every connection while the store shall be away. An outage begins when the work has come to a given place, and counts only
if somebody met it. Prints a table, which stands in docs/reliability.md; exits with 1 if anything isn't as it should be. It takes some ten minutes
on idle cores.
"""

import argparse
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from records import environment, lacking

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training.journal import read_journal
from pipelines.training.runs import RunFolder

WORDS, PER_SHARD = 100, 12
STEPS, EVERY = 60, 10  # of a run in the store
SERVED_STEPS, SERVED_BATCH = 400, 64  # of a run whose end MLflow's server must come before: it takes up to half a minute to start on two cores
AWAY, LEASE = 8.0, 45.0  # seconds
PATIENCE = 1200.0  # seconds for anything to come to the place that is waited for
BUCKET = "s3://drill"
MARK = "TEXTRAY_DRILL"  # a variable by which all processes of a command are found, also those of its Ray
Verdict = tuple[str, str, bool]  # how the outage was felt, what came of the work, whether that is right


class Relay:
    """Hands bytes on to a port. `away` says what becomes of connections meanwhile: None, "503" or "cut"; those that are open are cut then."""

    def __init__(self, port: int):
        self.away: str | None = None
        self.refused = 0  # connections answered by 503, cut at once, or behind which no server was
        self.cut = 0  # connections cut while they were open
        self._port, self._lock, self._open = port, threading.Lock(), set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def leave(self, how: str) -> None:
        """Be away from now on."""
        with self._lock:
            self.away, gone = how, list(self._open)
            self.cut += len(gone) // 2
        for end in gone:
            _shut(end)

    def felt(self) -> str:
        """What clients met of the outage, for the table."""
        return f"{self.refused} connections refused, {self.cut} cut"

    def begin(self) -> None:
        """Be there, and count from zero."""
        self.away, self.refused, self.cut = None, 0, 0

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = self._reach(client)
            except OSError:
                server = None
            if server is None:
                with self._lock:
                    self.refused += 1
                self._refuse(client)
                return
            with server:
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()
                with self._lock:
                    self._open -= {client, server}

    def _reach(self, client: socket.socket) -> socket.socket | None:
        """The connection behind; None while the store is away."""
        server = None if self.away else socket.create_connection(("127.0.0.1", self._port))
        with self._lock:  # `leave` cuts all that it finds here, and nothing comes after it
            if self.away:
                return None
            self._open |= {client, server}
        return server

    def _refuse(self, client: socket.socket) -> None:
        try:
            if self.away == "503":
                client.settimeout(2)
                client.recv(1 << 16)
                client.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 16):  # bytes that nobody reads would make a reset of the answer
                    pass
            else:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an orderly end
        except OSError:
            pass


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        _shut(source)
        _shut(target)


def free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server that can be killed and started again on the same port."""

    def __init__(self, log: Path, module: str, *options: str, ready: str):
        self.port, self._log, self._ready = free_port(), log, ready
        self._command = [sys.executable, "-m", *module.split(), *options, "--host" if "mlflow" in module else "-H", "127.0.0.1"]
        self._command += ["--port" if "mlflow" in module else "-p", str(self.port)]

    def start(self) -> None:
        """Returns when it answers."""
        with open(self._log, "ab") as log:
            variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                         "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # a dozen processes that nobody asks
            self._process = subprocess.Popen(self._command, env=variables, stdout=log, stderr=log, start_new_session=True)
        until(self._answers, self._process)

    def kill(self) -> None:
        """Its workers, too."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self._ready}", timeout=10) as answer:
                return answer.status == 200
        except OSError:
            return False


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Started, and killed at the end."""
    server.start()
    try:
        yield server
    finally:
        server.kill()


def until(look: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for something that a process does. Raises RuntimeError if it ends before, or takes too long."""
    start = time.monotonic()
    while not look():
        if process.poll() is not None or time.monotonic() - start > PATIENCE:
            raise RuntimeError(f"{' '.join(process.args[:4])}: status {process.poll()} after {time.monotonic() - start:.0f} s, too early")
        time.sleep(0.1)


class Command:
    """A command of this code in a folder; all that it printed lies there."""

    def __init__(self, place: Path, arguments: list[str], **variables: str):
        self.place, self.arguments = place, [sys.executable, "-m", *arguments]
        self.variables = environment() | variables | {MARK: place.name}
        place.mkdir(exist_ok=True)

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen]:
        """Started, the first of a process group; whatever is left of it at the end is killed."""
        with open(self.place / "out", "w", encoding="utf-8") as out:
            process = subprocess.Popen(self.arguments, cwd=self.place, env=self.variables, stdout=out, stderr=out, start_new_session=True)
        try:
            yield process
        finally:
            for number in self.living():
                os.kill(number, signal.SIGKILL)
            process.wait()

    def run(self) -> int:
        """Its status."""
        with self.started() as process:
            return process.wait()

    def said(self) -> str:
        """What it printed when it ran last."""
        return (self.place / "out").read_text(encoding="utf-8")

    def living(self) -> list[int]:
        """The processes that it started, also those of its Ray."""
        found, mark = [], f"{MARK}={self.place.name}".encode()
        for file in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in file.read_bytes().split(b"\0"):  # that of one that has died and isn't waited for is empty
                    found.append(int(file.parent.name))
            except OSError:  # gone meanwhile, or another's
                pass
        return found


class Drill:
    """What the cases share: the object store, the relay before it, a source, and what comes of work that nothing happens to."""

    def __init__(self, place: Path, port: int):
        self.place, self.relay = place, Relay(port)
        render_corpus(place / "words", WORDS, Settings(style="plain", charset="36"))
        render_corpus(f"{BUCKET}/words", WORDS, Settings(style="plain", charset="36"))
        self._files: dict[str, bytes] | None = None
        self._weights: bytes | None = None

    def ingest(self, name: str) -> Command:
        """Words of this machine into the store, in shards of a few."""
        arguments = ["pipelines.ingest", f"words={self.place / 'words' / 'part-plain-00000.parquet'}", "--out", f"{BUCKET}/{name}",
                     "--rows-per-shard", str(PER_SHARD)]
        return Command(self.place / name, arguments, AWS_ENDPOINT_URL=self.relay.address)

    def training(self, name: str) -> tuple[Command, RunFolder]:
        """A run whose corpus and folder lie in the store."""
        return recipe(self.place / name, f"{BUCKET}/words", f"{BUCKET}/runs-{name}", STEPS, EVERY,
                      AWS_ENDPOINT_URL=self.relay.address, TEXTRAY_LEASE_SECONDS=str(LEASE))

    def files(self) -> dict[str, bytes]:
        """The corpus that an undisturbed ingest makes."""
        if self._files is None:
            command = self.ingest("whole-corpus")
            expect(command, command.run() == 0)
            self._files = contents(f"{BUCKET}/whole-corpus")
        return self._files

    def weights(self) -> bytes:
        """The model that an undisturbed training makes."""
        if self._weights is None:
            command, run = self.training("whole")
            expect(command, command.run() == 0)
            self._weights = storage.read_bytes(f"{run.model}/weights.pt")
        return self._weights


def recipe(place: Path, corpus: str, runs: str, steps: int, every: int, batch: int = 8, **variables: str) -> tuple[Command, RunFolder]:
    """A training in that folder."""
    command = Command(place, ["pipelines.finetune", "drill.yaml"], **variables)
    tree = {"name": "drill", "runs": runs, "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
            "data": {"labeled": {"corpus": corpus, "batch_size": batch}},
            "training": {"steps": steps, "checkpoint_every": every, "log_every": 1, "threads_per_worker": 1, "cpus_per_worker": 0.5}}
    (place / "drill.yaml").write_text(json.dumps(tree), encoding="utf-8")
    return command, RunFolder(runs + "/drill")


def expect(command: Command, right: bool) -> None:
    """Raise RuntimeError with what the command printed unless it went as it must for the drill to mean anything."""
    if not right:
        raise RuntimeError(f"{' '.join(command.arguments)} went wrong:\n{command.said()[-3000:]}")


def contents(folder: str) -> dict[str, bytes]:
    """All files of a folder in the store."""
    return {entry.path: storage.read_bytes(f"{folder}/{entry.path}") for entry in storage.list_files(folder)}


def holds(folder: str, pattern: str) -> bool:
    """Whether a file of that name lies below a folder of the store."""
    try:
        return any(re.search(pattern, entry.path) for entry in storage.list_files(folder))
    except FileNotFoundError:
        return False


def through_an_outage(relay: Relay, command: Command, begins: Callable[[], bool], how: str) -> int:
    """The command's status, the store having been away when the work had come so far."""
    relay.begin()
    with command.started() as process:
        until(begins, process)
        relay.leave(how)
        time.sleep(AWAY)
        relay.away = None
        return process.wait()


def ingested(drill: Drill, how: str, name: str) -> Verdict:
    """The store is away behind the first shard of an ingest."""
    whole, command = drill.files(), drill.ingest(name)
    status = through_an_outage(drill.relay, command, lambda: holds(f"{BUCKET}/{name}.partial", r"^done/"), how)
    equal = status == 0 and contents(f"{BUCKET}/{name}") == whole
    left = holds(f"{BUCKET}/{name}.partial", ".")
    lines = command.said().count("the store does not answer")
    return drill.relay.felt(), f"status {status}, {lines} lines that say so, {'the same bytes' if equal else 'ANOTHER CORPUS'}" \
        f"{', LEFTOVERS' if left else ''}", equal and not left and drill.relay.refused > 0


def trained(drill: Drill, how: str, name: str) -> Verdict:
    """The store is away behind the first checkpoint of a training."""
    whole, (command, run) = drill.weights(), drill.training(name)
    status = through_an_outage(drill.relay, command, lambda: holds(run.checkpoints, r"/checkpoint\.json$"), how)
    became, right = compared(drill, run, status, whole)
    return drill.relay.felt(), became, right and drill.relay.refused > 0


def compared(drill: Drill, run: RunFolder, status: int, whole: bytes) -> tuple[str, bool]:
    """What came of a run in the store."""
    if status != 0:
        return f"status {status}", False
    steps = [line["step"] for line in read_journal(run.progress) if "loss" in line]
    equal, every = storage.read_bytes(f"{run.model}/weights.pt") == whole, sorted(set(steps)) == list(range(1, STEPS + 1))
    again = len(steps) - len(set(steps))
    return f"status 0, {'the same bits' if equal else 'OTHER WEIGHTS'}, {again} steps twice{'' if every else ', STEPS MISSING'}", equal and every


def killed(drill: Drill, name: str) -> Verdict:
    """The driver's process group is killed behind the first checkpoint, and the command repeated: within the lease, and after it."""
    whole, (command, run) = drill.weights(), drill.training(name)
    drill.relay.begin()
    with command.started() as process:
        until(lambda: holds(run.checkpoints, r"/checkpoint\.json$"), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        death = time.monotonic()
        while command.living() and time.monotonic() - death < PATIENCE:
            time.sleep(0.1)
        gone, left = time.monotonic() - death, len(command.living())
    first = command.run()
    refused = first == 2 and re.search(r"is being trained by another process \(.*, process \d+, .*\), whose lease holds until", command.said())
    lease = json.loads(storage.read_bytes(run.file("lease.json")))
    time.sleep(max(0.0, lease["until"] / 1000 - time.time()))
    again = time.time()
    became, right = compared(drill, run, command.run(), whole)
    new = [line["step"] for line in read_journal(run.progress) if "loss" in line and line["time"] > again]
    done = new[0] - 1 if new else STEPS
    felt = f"its Ray's processes gone {gone:.1f} s later{f', {left} LEFT' if left else ''}"
    came = f"within the lease: status {first}{', the owner named' if refused else ', NOBODY NAMED'}; after it: went on from step {done}, {became}"
    return felt, came, bool(refused) and right and done > 0 and done % EVERY == 0 and not left


def served(drill: Drill, comes_back: bool, name: str) -> Verdict:
    """MLflow's server is killed in the middle of a run, and comes back before its end or after it."""
    place = drill.place / name
    place.mkdir()
    server = Server(place / "server.log", "mlflow server", "--backend-store-uri", f"sqlite:///{place / 'served.db'}", "--workers", "1",
                    "--artifacts-destination", str(place / "artifacts"), ready="/health")
    relay, steps = Relay(server.port), SERVED_STEPS if comes_back else STEPS
    command, run = recipe(place, str(drill.place / "words"), str(place / "runs"), steps, steps // 4, SERVED_BATCH, MLFLOW_TRACKING_URI=relay.address)
    with running(server):
        with command.started() as process:
            until(lambda: len(read_journal(run.progress)) >= steps // 6, process)
            server.kill()
            kill = time.monotonic()
            until(lambda: relay.refused > 0, process)
            if comes_back:
                server.start()
            seconds, early = time.monotonic() - kill, process.poll() is None
            status = process.wait()
        felt = f"{relay.refused} connections refused"
        warned = command.said().count("textray: warning: ")
        if comes_back:
            missing = lacking(run, steps) if status == 0 else ["an end"]
            came = f"back after {seconds:.0f} s{'' if early else ', AFTER THE END'}"
            became = f"{came}; status {status}, {warned} lines that say so, {verdict(missing)}"
            return felt, became, early and not missing
        server.start()
        before, again = lacking(run, steps), command.run()
        missing = lacking(run, steps) if again == 0 else ["an end"]
        became = f"status {status}, {warned} lines that say so, the record lacks {', '.join(before)}; repeated: status {again}, {verdict(missing)}"
        return felt, became, status == 0 and warned > 0 and bool(before) and not missing


def verdict(missing: list[str]) -> str:
    """What the record of a run lacks, for the table."""
    return f"the record LACKS {', '.join(missing)}" if missing else "the record complete, every step once"


CASES: dict[str, tuple[str, Callable[..., Verdict]]] = {
    "ingest-503": (f"object store: 503 for {AWAY:.0f} s, during `textray ingest`", partial(ingested, how="503")),
    "ingest-cut": (f"object store: connections cut for {AWAY:.0f} s, during `textray ingest`", partial(ingested, how="cut")),
    "train-503": (f"object store: 503 for {AWAY:.0f} s, during `textray finetune`", partial(trained, how="503")),
    "train-cut": (f"object store: connections cut for {AWAY:.0f} s, during `textray finetune`", partial(trained, how="cut")),
    "killed": ("the driver's process group killed, its run in the store", killed),
    "mlflow-back": ("MLflow's server killed, and started again before the run's end", partial(served, comes_back=True)),
    "mlflow-away": ("MLflow's server killed, and started again after the run's end", partial(served, comes_back=False)),
}


@contextmanager
def object_store(place: Path) -> Iterator[int]:
    """moto's server, named in the environment of this process, which itself asks it without the relay. Gives its port."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_PROFILE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        os.environ.pop(name, None)
    with running(Server(place / "moto.log", "moto.server", ready="/moto-api/data.json")) as server:
        os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                       "AWS_REGION": "us-east-1", "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        import boto3
        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        yield server.port


def main() -> int:
    """Run the drill."""
    parser = argparse.ArgumentParser(description="Take a command's stores away for a while, and look what comes of its work.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all of them if none is named")
    wanted = parser.parse_args().cases or [*CASES]
    if not set(wanted) <= set(CASES):
        parser.error(f"expected cases of {', '.join(CASES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end, too
    right = []
    with tempfile.TemporaryDirectory() as temporary, object_store(Path(temporary)) as port:
        drill = Drill(Path(temporary), port)
        print("| what was away | what was felt | what came of the work |\n|---|---|---|", flush=True)
        for name in wanted:
            title, case = CASES[name]
            try:
                felt, became, well = case(drill, name=name)
            except (RuntimeError, BadInput, OSError) as problem:
                felt, became, well = "", f"{type(problem).__name__}: {problem}", False
            print(f"| {title} | {felt} | {became}{'' if well else '  **WRONG**'} |", flush=True)
            right.append(well)
    print(f"\n{sum(right)} of {len(right)} as they should be", file=sys.stderr)
    return 0 if all(right) else 1


if __name__ == "__main__":
    raise SystemExit(main())
