"""The Ray that a command runs on: the cluster it was told of, or a local one that it starts itself, where there is enough to do for it.

Ray is imported where it is needed: it takes a second, and its processes take many. What one process does sooner is done without it.

Of a cluster with an autoscaler most machines are not there until somebody asks for them: what is up now says nothing of what may be. So GPUs are
asked for there (`training.gpu: true`), never guessed, and whoever counts what there is waits first until it has come (`wait_for`).
"""

import itertools
import json
import logging
import os
import pathlib
import re
import resource
import secrets
import shutil
import socket
import time
from collections import Counter

from pipelines.errors import BadInput
from pipelines.progress import say

# Read by Ray when it is imported, here and in the worker processes that inherit them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# A worker process takes one to two seconds of a core to start. Ray ends those that have been idle for a second.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")

ANSWERS_WITHIN, SECONDS_BETWEEN_LINES = 10.0, 30.0
LONGEST_FOLDER, LEAST_FILES, LEAST_ROOM = 38, 1024, 200 * 2**20  # of a local Ray: characters (sockets have at most 107, of which it takes 69), open files, bytes
TESTED = (2, 60)  # the minor version of Ray that the tests pass with, as pyproject.toml has it


def asked_for() -> bool:
    """Whether RAY_ADDRESS asks for Ray, even for little work: a cluster, or `local`, a Ray of this machine."""
    return bool(os.environ.get("RAY_ADDRESS"))


def check_version() -> None:
    """Raise BadInput for another Ray than the tested one, or for one whose Train is the old one, in which a resumed run begins at step 0."""
    import ray
    wanted, following = (".".join(map(str, version)) for version in (TESTED, (TESTED[0], TESTED[1] + 1)))
    if not re.match(rf"{re.escape(wanted)}(\.|$)", ray.__version__):
        raise BadInput(f"expected Ray {wanted}, with which textray was tested, found {ray.__version__}: "
                       f"pip install 'ray[data,train,tune,default]>={wanted},<{following}'")
    if os.environ.get("RAY_TRAIN_V2_ENABLED", "1").lower() in ("0", "false"):
        raise BadInput("expected Ray Train V2, without which a resumed run begins at step 0, found RAY_TRAIN_V2_ENABLED="
                       f"{os.environ['RAY_TRAIN_V2_ENABLED']}: unset it")


def start_ray(num_cpus: int | None = None, object_store_memory: int | None = None) -> None:
    """Join the cluster at RAY_ADDRESS (`ray job submit` sets it), else start Ray on this machine alone.

    Does nothing when Ray runs in this process already. `num_cpus` (default: all of this machine) and
    `object_store_memory` (bytes) shape a local Ray only. Commands print their own progress, so Ray's is off.
    Raises BadInput if there is no cluster at RAY_ADDRESS, if a Ray of this machine does not start, or for another version of Ray than the tested one.
    """
    check_version()
    import ray
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "")
        if address in ("", "local"):
            _start_local(num_cpus, object_store_memory)
        else:
            _join(address)
    _quiet_data()


def grows() -> bool:
    """Whether an autoscaler starts machines for the cluster that is joined when they are asked for: Ray's second (of `ray up`), which leaves word that it is there, or its
    first, as its report tells."""
    from ray.experimental.internal_kv import _internal_kv_get
    if _internal_kv_get("__autoscaler_v2_enabled", namespace="__autoscaler") == b"1":
        return True
    report = json.loads(_internal_kv_get("__autoscaling_status") or b"{}").get("autoscaler_report") or {}
    kinds = report.get("node_type_mapping") or {}
    return any(kind != f"node_{node}" for node, kind in kinds.items())  # a cluster that nobody scales has a kind of machine for each, named after it


def wait_for(bundles: list[dict[str, float]]) -> None:
    """Ask a cluster that grows for the machines on which these bundles of resources have a place, and wait until they are there, with a line every now and then. A
    cluster that does not grow is left as it is: whoever counts what it has says what is missing."""
    if not grows():
        return
    from ray.util.placement_group import placement_group, remove_placement_group
    wanted = ", ".join(f"{count} × {resources}" for resources, count in Counter(map(_resources, bundles)).items())
    group, began = placement_group(bundles), time.monotonic()
    try:
        while not group.wait(SECONDS_BETWEEN_LINES):
            say(f"waiting for the cluster to grow: {wanted} have no place yet on its {_up()} machines, after "
                f"{time.monotonic() - began:.0f} s; `ray status` says what comes, Ctrl-C ends the wait")
    finally:
        remove_placement_group(group)


def _resources(bundle: dict[str, float]) -> str:
    return " and ".join(f"{count:g} {name}{'s' if count != 1 else ''}" for name, count in bundle.items())


def gpus_for(workers: int, wanted: bool | None) -> bool:
    """Whether each worker gets a GPU of the cluster that is joined: as the recipe says it, else if there are as many.

    Raises:
        BadInput: it does not say it, and that cannot be known: the cluster grows, or has GPUs but too few.
    """
    import ray
    if wanted is not None:
        return wanted
    found = ray.cluster_resources().get("GPU", 0)
    if found >= workers:
        return True
    if grows():
        raise BadInput(f"training.gpu: expected true or false on a cluster that grows when it is asked, found neither, and {found:g} GPUs up now for {workers} workers: say "
                       "training.gpu=true, which asks for them, or training.gpu=false to train on CPUs")
    if found:
        raise BadInput(f"training.gpu: expected a GPU for each of {workers} workers, found {found:g} in the cluster: set training.workers={found:g}, or training.gpu=false to "
                       "train on CPUs")
    return False


def job_folder() -> str | None:
    """The copy of a working folder in which a job of `ray job submit --working-dir` runs, and which Ray deletes; None elsewhere."""
    here, parts = os.getcwd(), pathlib.Path(os.getcwd()).parts
    return here if any(pair == ("runtime_resources", "working_dir_files") for pair in itertools.pairwise(parts)) else None


def check_outlives(path: str, what: str) -> None:
    """Raise BadInput for a place to write to, called `what`, that lies in the copy of a job's working folder: whatever is made there is lost."""
    here = job_folder()
    if here is None or "://" in path.removeprefix("file://"):
        return
    if f"{os.path.abspath(path.removeprefix('file://'))}/".startswith(f"{here}/"):
        found = os.path.relpath(path.removeprefix("file://"), here)
        raise BadInput(f"{what}: expected a place that outlives the job, found {found}, in the copy of the working folder that Ray deletes: give a "
                       "folder that every machine of the cluster sees, such as /shared/…, or an object store, s3://…")


def machines() -> int:
    """How many of the joined cluster are up and take work; at least one."""
    return max(1, _up())


def _up() -> int:
    import ray
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())  # a dead one stays in the list


def cluster_cpus() -> int:
    """CPUs of the whole cluster that is joined. Work that asks for more waits for ever, without a message."""
    import ray
    return int(ray.cluster_resources().get("CPU", 0))


def _start_local(num_cpus: int | None, object_store_memory: int | None) -> None:
    import ray

    # Ray's ports are open to the network, so a local Ray asks for a token. Left alone, Ray would write that token to
    # ~/.ray/auth_token, where a later `ray start --head` finds it and turns authentication on for a whole cluster whose
    # job clients know nothing of it. A token in this process's environment dies with it. RAY_AUTH_MODE decides, if set.
    if "RAY_AUTH_MODE" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away, and each process takes seconds to start
    try:
        ray.init(address="local", num_cpus=num_cpus, object_store_memory=object_store_memory, include_dashboard=False,
                 log_to_driver=False, logging_level=logging.ERROR)
    except Exception as problem:  # Ray has no exception of its own for this: OSError, RuntimeError, ValueError and a bare Exception were seen
        ray.shutdown()  # what of it did start
        raise BadInput(f"Ray: expected it to start on this machine, found that it does not ({_first_line(problem)}): {_remedy()}") from problem


def _first_line(problem: BaseException) -> str:
    """What a library says, as a part of a sentence."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return (lines[0] if lines else type(problem).__name__).rstrip(".")


def _remedy() -> str:
    """What to do about a Ray that does not start: what is seen to be wrong, else where to look."""
    folder = os.environ.get("RAY_TMPDIR", "/tmp")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if len(folder) > LONGEST_FOLDER:
        return f"set RAY_TMPDIR to a folder with a name of at most {LONGEST_FOLDER} characters"
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        return f"make {folder} a folder that can be written to, or set RAY_TMPDIR to one"
    if files < LEAST_FILES:
        return f"allow more open files than {files}, as with `ulimit -n {LEAST_FILES}`"
    free = shutil.disk_usage(folder).free
    if free < LEAST_ROOM:
        return f"free some room in {folder}, where {free / 2**20:,.0f} MiB are left, or set RAY_TMPDIR to another folder"
    if not os.access("/dev/shm", os.W_OK):
        return "give this machine a /dev/shm that can be written to (of a container: --shm-size=2g)"
    return f"look at {folder}/ray/session_latest/logs, run `textray doctor`, or set RAY_ADDRESS to a cluster that runs; one worker (training.workers=1) needs no Ray"


def _join(address: str) -> None:
    import ray
    try:
        _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, OSError, ValueError) as problem:
        raise BadInput(f"RAY_ADDRESS={address}: expected a running Ray cluster, found none that answers "
                       f"({_first_line(problem)}): start it, correct the address, "
                       "or unset RAY_ADDRESS for a local Ray") from problem


def _check_answers(address: str) -> None:
    """Ray itself tries for minutes before it gives up on an address where nothing listens, or something that is no Ray. Raises OSError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN).close()
    if os.environ.get("RAY_USE_TLS", "0") == "0":  # with TLS Ray itself finds out
        import grpc
        with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=ANSWERS_WITHIN)
            except grpc.FutureTimeoutError:
                raise OSError("what listens there does not speak as Ray does") from None


def _quiet_data() -> None:
    """Warnings of Ray Data still show, except the one that says its progress bars are off."""
    import ray.data
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
