"""Pieces of work on every CPU of the cluster, by Ray Data: each makes files and gives back what became of it."""

import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

from pipelines.cluster import start_ray
from pipelines.errors import BadInput, Unavailable
from pipelines.ingestion.chunks import ChunkResult


def in_tasks(work: Callable[[Any], ChunkResult], items: list[Any]) -> Iterator[ChunkResult]:
    """`work(item)` for every item, in the order in which they finish. Raises the BadInput, or the Unavailable, that one of them raises."""
    if not items:
        return
    start_ray()
    import ray.data

    def guarded(row: dict) -> dict:
        try:
            return {"result": work(pickle.loads(row["item"])).model_dump_json(by_alias=True)}
        except (BadInput, Unavailable) as problem:  # as a value: Ray would wrap an exception in its own and in a page of traceback
            return {"result": json.dumps({"problem": str(problem), "away": isinstance(problem, Unavailable)})}

    rows = [{"item": pickle.dumps(item)} for item in items]
    for row in ray.data.from_items(rows, override_num_blocks=len(rows)).map(guarded, num_cpus=1).iter_rows():
        result = json.loads(row["result"])
        if "problem" in result:
            raise (Unavailable if result["away"] else BadInput)(result["problem"])
        yield ChunkResult.model_validate(result)
