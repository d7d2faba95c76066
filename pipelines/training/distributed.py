"""The workers of a run under Ray Train: each in a process of its own, on this machine or on the nodes of a cluster."""

import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from models import own
from pipelines import cluster
from pipelines.cluster import start_ray
from pipelines.corpus import storage
from pipelines.errors import NO_ROOM, BadInput
from pipelines.feed.datasource import Readers, ray_blocks
from pipelines.feed.stream import Share, Stream
from pipelines.feed.windows import readers_of
from pipelines.progress import warn
from pipelines.training import checkpoints
from pipelines.training.crew import Job, bring
from pipelines.training.recipe import Recipe, parse_recipe
from pipelines.training.runs import RunFolder
from pipelines.training.speed import seconds_a_step
from pipelines.training.worker import work

LEAST_CPUS = 0.05  # of a task that reads; reading takes a few percent of a core for each thousand images a second
SHARE_OF_STORE = 0.5  # of the object store, for blocks that are read ahead


class Workers:
    """A crew, as Ray Train has started it."""

    def __init__(self, where: RunFolder, readers: Readers):
        context = ray.train.get_context()
        self.rank, self.world, self.beside = context.get_world_rank(), context.get_world_size(), context.get_local_world_size()
        self.device = ray.train.torch.get_device()
        self._where, self._readers = where, readers

    def blocks(self, stream: Stream, share: Share) -> Iterator[pa.Table]:
        """The windows, read by tasks of Ray Data."""
        return ray_blocks(stream, share, self._readers)

    def report(self, numbers: dict[str, Any], checkpoint: Path | None) -> None:
        """Report to Ray Train, which waits until every worker has."""
        if checkpoint is None:
            ray.train.report(numbers)
        else:
            ray.train.report(numbers, checkpoint=Checkpoint.from_directory(checkpoint), checkpoint_upload_fn=partial(_bring, self._where))


def _bring(where: RunFolder, checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Bring a checkpoint to its place. Ray itself would by `pyarrow.fs.copy_files`, which hides that a store took nothing."""
    system, inside = storage.locate(bring(Path(checkpoint.path), storage.join(where.checkpoints, name)))
    return Checkpoint(inside, system)


def _work(config: dict[str, Any]) -> None:
    """The function that Ray Train runs in every worker."""
    job: Job = config["job"]
    start = config["start"] and ray.get(config["start"])
    work(replace(job, start=start), Workers(RunFolder(job.folder), config["readers"]))


def seconds_in_a_task(recipe: Recipe, own_files: dict[str, str], beside: int) -> float:
    """What a step takes one worker of `beside` on a node of the cluster. Raises BadInput for an objective that cannot be built."""
    task = ray.remote(num_cpus=recipe.training.cpus_per_worker, num_gpus=1 if uses_gpus(recipe) else 0)(_timed)
    try:
        return ray.get(task.remote(recipe.model_dump(mode="json"), own_files, beside))
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, BadInput):
            raise BadInput(str(problem.cause)) from None
        raise


def _timed(recipe: dict[str, Any], own_files: dict[str, str], beside: int) -> float:
    with own.held(own_files):
        return seconds_a_step(parse_recipe(recipe), beside)


class OnRay:
    """The engine of such a run.

    callbacks: of Ray Train, such as Tune's.
    reserved_cpus: CPUs of the cluster that the run must leave alone.
    """

    def __init__(self, callbacks: Sequence = (), reserved_cpus: float = 0.0):
        self._callbacks, self._reserved = list(callbacks), reserved_cpus

    def seconds_a_step(self, recipe: Recipe, own_files: dict[str, str]) -> float:
        """Measured by a task that has what a worker has."""
        start_ray()
        cluster.wait_for([worker_resources(recipe)] * recipe.training.workers)  # how many share a machine is seen when they are there
        return seconds_in_a_task(recipe, own_files, math.ceil(recipe.training.workers / cluster.machines()))

    def begin(self, recipe: Recipe, streams: dict[str, Stream]) -> None:
        """Start Ray, or join the cluster. Raises BadInput if it is too small for the workers and their readers."""
        start_ray()
        check_batch_normalization(recipe)
        cluster.wait_for([worker_resources(recipe)] * recipe.training.workers + [{"CPU": 2 * LEAST_CPUS}] * _reading_tasks(recipe, streams))
        self._readers = share_readers(recipe, streams, self._reserved)

    def fit(self, recipe: Recipe, job: Job, where: RunFolder) -> None:
        """Train under Ray Train, which starts workers anew that are lost. A full disk, wherever it was met, is an OSError.

        Ray counts failures over the whole life of a run, so that a run of weeks on machines that come and go would end some day. Here those count that follow each other
        without a new checkpoint between them: more than `training.max_failures` of these speak against the run, all others against its machines.
        """
        system, inside = storage.locate(where.place)
        start = None if job.start is None else ray.put(job.start)
        kept, use_gpu, each = job.done, uses_gpus(recipe), worker_resources(recipe)  # settled once: a machine that is lost must not turn a run on GPUs into one on CPUs
        while True:
            trainer = TorchTrainer(
                _work, train_loop_config={"job": replace(job, start=None, done=kept), "start": start, "readers": self._readers},
                scaling_config=ScalingConfig(num_workers=recipe.training.workers, use_gpu=use_gpu, resources_per_worker=each),
                run_config=RunConfig(name="checkpoints", storage_path=inside, storage_filesystem=system, callbacks=self._callbacks,
                                     failure_config=FailureConfig(max_failures=recipe.training.max_failures)))  # what is kept, `checkpoints.prune` decides
            try:
                with interruptible():
                    trainer.fit()
                return
            except TrainingFailedError as problem:
                if storage.kind(where.failure) == "file":
                    raise BadInput(storage.read_bytes(where.failure).decode(errors="replace")) from None
                for code in NO_ROOM:
                    if os.strerror(code) in str(problem):  # of a worker's error Ray hands on the text
                        raise OSError(code, os.strerror(code)) from problem
                newest, torn = checkpoints.newest_whole(where.checkpoints)
                if newest is None or newest.step <= kept:
                    raise
                checkpoints.forget(where.checkpoints, torn)  # Ray's list too, which may name what was pruned
                kept = newest.step
                warn(f"workers were lost or failed more than {recipe.training.max_failures} times, but the run has come to step {kept} meanwhile: it goes on from there")


def share_readers(recipe: Recipe, streams: dict[str, Stream], reserved: float = 0.0) -> Readers:
    """What each worker's reading of each stream may take: all that the workers leave of the cluster, divided evenly.

    Args:
        reserved: CPUs that others hold, such as the other trials of a sweep.

    Raises:
        BadInput: the workers leave too little; some of them would wait for ever for their next batch.
    """
    resources, training = ray.cluster_resources(), recipe.training
    total = resources.get("CPU", 0.0)
    tasks = _reading_tasks(recipe, streams)
    left = check_cpus(recipe, streams, total, reserved)
    memory = SHARE_OF_STORE * resources.get("object_store_memory", math.inf) * (1 - reserved / total)
    return Readers(min(1.0, left / max(1, tasks)), memory / (training.workers * max(1, len(streams))))  # no streams: nothing is read


def _reading_tasks(recipe: Recipe, streams: dict[str, Stream]) -> int:
    return recipe.training.workers * sum(map(readers_of, streams.values()))


def check_cpus(recipe: Recipe, streams: dict[str, Stream], total: float, reserved: float = 0.0) -> float:
    """The CPUs that the workers leave for reading, of `total` of which others hold `reserved`.

    Raises:
        BadInput: they are too few; some workers would wait for ever for their next batch.
    """
    training, tasks = recipe.training, _reading_tasks(recipe, streams)
    left = total - reserved - training.workers * training.cpus_per_worker
    if left < LEAST_CPUS * tasks:
        wanted = (total - reserved - 2 * LEAST_CPUS * tasks) / training.workers
        mend = f"set training.cpus_per_worker={wanted:.2g}" if wanted > 0 else "take a larger cluster"
        raise BadInput(f"{training.workers} workers with {training.cpus_per_worker:g} CPUs each leave {max(left, 0):.2g} of {total - reserved:g} CPUs "
                       f"for the {tasks} tasks that read for them, which need at least {LEAST_CPUS * tasks:.2g}; {mend}, or lower training.workers")
    return left


def uses_gpus(recipe: Recipe) -> bool:
    """Whether each worker gets a GPU of the cluster that Ray is connected to. Raises BadInput as `cluster.gpus_for` does."""
    return cluster.gpus_for(recipe.training.workers, recipe.training.gpu)


def worker_resources(recipe: Recipe) -> dict[str, float]:
    """What a worker takes of its machine."""
    return {"CPU": recipe.training.cpus_per_worker} | ({"GPU": 1} if uses_gpus(recipe) else {})


def check_batch_normalization(recipe: Recipe) -> None:
    """BadInput for statistics over workers without GPUs, on which PyTorch has none."""
    if recipe.training.sync_batchnorm and recipe.training.workers > 1 and not uses_gpus(recipe):
        raise BadInput("training.sync_batchnorm: expected workers on GPUs, found CPUs, on which PyTorch has no synchronised batch normalization: "
                       "leave it out, or train on GPUs")


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C be what it is elsewhere. Ray Train takes the signal for itself, in the main thread, to end its workers; it then leaves the process by
    SystemExit, and its handler behind."""
    alone = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if alone:
            signal.signal(signal.SIGINT, handler)
