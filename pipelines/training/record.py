"""A run's entry in MLflow follows the run's folder: opened behind it, and brought to what it says at the end or by the next command that touches it.

The folder is always written first. Whatever a kill, or a store that is away, leaves undone is found there, and done, by the same command repeated.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict

from pipelines import tracking
from pipelines.corpus import storage
from pipelines.errors import BadInput, without_credentials
from pipelines.handles import RunHandle
from pipelines.progress import say
from pipelines.training.journal import read_journal
from pipelines.training.runs import RunFolder, RunState


def begin(where: RunFolder, state: RunState, start: Callable[[str | None], RunHandle], store: str | None = None) -> None:
    """Open the run's entry by `start`, which is given the run's token; or open it again, with the numbers that it lacks.

    Raises:
        BadInput: a new run, and the store (by default that of `tracking_uri`) cannot be used.
    """
    if state.handle is not None:
        settle(where, state, "RUNNING")
        return
    tracking.prepare_store(store)  # refused before anything is written
    where.write(state)  # its token: who is killed from here on finds the entry again
    handle = start(state.token)
    state.tracked = {**asdict(handle), "uri": without_credentials(handle.uri)}
    where.write(state)


def settle(where: RunFolder, state: RunState, status: str, tags: Mapping[str, str] | None = None,
           files: Callable[[], Mapping[str, str | bytes]] = tracking.no_files) -> bool:
    """Complete the run's entry: the numbers of its progress.jsonl, tags, files, and last its status. A store that is away costs a line on stderr.

    Returns:
        Whether the entry is complete.
    """
    if state.handle is None:
        return True
    points = tracking.points_of(read_journal(where.progress))
    problem = tracking.complete(state.handle, status, points=points, tags=tags, files=files)
    if problem is not None:
        line = (f"textray: warning: the status {status} of the run {where.place}, and what may be missing of its {len(points)} numbers, cannot be "
                f"stored in {state.handle.uri} now ({problem}); nothing is lost, it stands there: repeat the command when the store is back")
        say(without_credentials(line))
    return problem is None


def handle_of(model: str) -> RunHandle | None:
    """The entry of the run that a model folder is of; None for a model from elsewhere."""
    if model.startswith("models:/"):
        return None
    try:
        state = RunFolder(storage.parent(model)).state()
    except BadInput:
        return None
    return state.handle if state else None
