"""What a version says of itself: where it came from, what it was measured on, how it is asked. MLflow shows it as the version's description."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.corpus import storage
from pipelines.errors import BadInput, without_credentials
from pipelines.evaluation.measure import Result
from pipelines.evaluation.table import HEADER, VARIANTS, rows
from pipelines.reading.weights import read_description
from pipelines.training.runs import RunFolder

ANCESTORS = 8  # of a model: pretrained, fine-tuned, adapted …
LONGEST = 60  # characters of a charset that are shown


def lineage(folder: str) -> list[dict[str, Any]]:
    """The runs behind a model folder, the last one first: name, objective, the corpora with their fingerprints, and the model that each began with.

    It ends where a run's folder is not at hand, as behind a model from elsewhere.
    """
    found: list[dict[str, Any]] = []
    for _ in range(ANCESTORS):
        about = _about(folder)
        state = RunFolder(storage.parent(folder)).state() if about else None
        if about is None or state is None:
            break
        start = state.start
        found.append({"run": str(about.get("run", "")), "objective": str(about.get("objective", "")), "corpora": {without_credentials(place): sha for place, sha in state.corpora.items()},
                      "start": without_credentials(start.model) if start else "", "start_weights_sha256": start.weights_sha256 if start else ""})
        if start is None:
            break
        folder = start.model
    return found


def _about(folder: str) -> dict[str, Any] | None:
    try:
        return read_description(folder)
    except (BadInput, OSError):
        return None


def card(name: str, about: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], measured: Sequence[Result], sentence: str) -> str:
    """The model card, in Markdown.

    Args:
        about: the model's description.
        runs: its `lineage`.
        measured: what it read on the words that it was registered with.
        sentence: what became of its promotion.
    """
    characters = str(about.get("charset", ""))
    shown = characters if len(characters) <= LONGEST else f"{characters[:LONGEST]}…"
    facts = [("recognizer", about.get("name")), ("charset", f"{len(characters)} characters: `{shown}`"), ("compared by", about.get("rule", "charset")),
             ("step", about.get("step")), ("temperature", about.get("temperature")), ("weights", f"sha256 `{about.get('weights_sha256', '')}`")]
    pieces = [f"# {name}", sentence, _table(("", ""), [(what, str(said)) for what, said in facts if said not in (None, "")])]
    if runs:
        pieces += ["## Where it comes from", _table(("run", "learned by", "corpora (sha256 of the manifest)", "began with"), [
            (run["run"], run["objective"], ", ".join(f"{place} ({sha[:12]})" for place, sha in run["corpora"].items()), run["start"] or "weights drawn at random") for run in runs])]
    if measured:
        pieces += ["## What it reads", _table(HEADER, rows(list(measured))), f"Accuracy: {VARIANTS['accuracy']}. Interval: {VARIANTS['interval_95']}."]
    asked = (f'```python\nimport mlflow, pandas\nmodel = mlflow.pyfunc.load_model("models:/{name}@champion")\n'
             'model.predict(pandas.DataFrame({"image": [open("word.jpg", "rb").read()]}))  # text, confidence, characters\n```')
    return "\n\n".join([*pieces, "## How to ask it", asked]) + "\n"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, ["---"] * len(header), *lines))
