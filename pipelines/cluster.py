"""The Ray that a command runs on: the cluster it was told of, or a local one that it starts itself, where there is enough to do for it.

Ray is imported where it is needed: it takes a second, and its processes take many. What one process does sooner is done without it.
"""

import logging
import os
import re
import secrets
import socket

from pipelines.errors import BadInput

# Read by Ray when it is imported, here and in the worker processes that inherit them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# A worker process takes one to two seconds of a core to start. Ray ends those that have been idle for a second.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")

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
    Raises BadInput if there is no cluster at RAY_ADDRESS, or for another version of Ray than the tested one.
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
    ray.init(address="local", num_cpus=num_cpus, object_store_memory=object_store_memory, include_dashboard=False,
             log_to_driver=False, logging_level=logging.ERROR)


def _join(address: str) -> None:
    import ray
    try:
        _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, OSError, ValueError) as problem:
        raise BadInput(f"RAY_ADDRESS={address}: expected a running Ray cluster, found none that answers "
                       f"({str(problem).splitlines()[0]}): start it, correct the address, "
                       "or unset RAY_ADDRESS for a local Ray") from problem


def _check_answers(address: str) -> None:
    """Ray itself tries for minutes before it gives up on an address where nothing listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _quiet_data() -> None:
    """Warnings of Ray Data still show, except the one that says its progress bars are off."""
    import ray.data
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
