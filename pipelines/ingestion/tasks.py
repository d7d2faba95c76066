"""Pieces of work on every CPU of the cluster, by Ray Data, or in this process: each makes files and gives back what became of it."""

import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel

from pipelines.cluster import asked_for, start_ray
from pipelines.errors import BadInput, Unavailable
from pipelines.ingestion.chunks import ChunkResult

Result = TypeVar("Result", bound=BaseModel)
FEW = 10_000  # images, which are brought in or read in about the time that Ray takes to start


def in_tasks(work: Callable[[Any], Result], items: list[Any], kind: type[Result] = ChunkResult, *, gpu: bool = False,
             few: bool = False) -> Iterator[Result]:
    """`work(item)` for every item, in the order in which they finish. Raises the BadInput, or the Unavailable, that one of them raises.

    Args:
        kind: what `work` gives back.
        gpu: whether a task takes a GPU beside its CPU.
        few: whether there is so little to do that this process is done before Ray has started; a single item is few.
    """
    if not items:
        return
    if not gpu and not asked_for() and (few or len(items) == 1):
        yield from map(work, items)
        return
    start_ray()
    import ray.data

    def guarded(row: dict) -> dict:
        try:
            return {"result": work(pickle.loads(row["item"])).model_dump_json(by_alias=True)}
        except (BadInput, Unavailable) as problem:  # as a value: Ray would wrap an exception in its own and in a page of traceback
            return {"result": json.dumps({"problem": str(problem), "away": isinstance(problem, Unavailable)})}

    rows = [{"item": pickle.dumps(item)} for item in items]
    resources = {"num_cpus": 1, **({"num_gpus": 1} if gpu else {})}
    for row in ray.data.from_items(rows, override_num_blocks=len(rows)).map(guarded, **resources).iter_rows():
        result = json.loads(row["result"])
        if "problem" in result:
            raise (Unavailable if result["away"] else BadInput)(result["problem"])
        yield kind.model_validate(result)
