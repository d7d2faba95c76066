"""The page of a corpus' suspects: what is labeled, and what a model reads instead."""

from collections.abc import Callable

from pipelines.prediction.suspects import Suspect
from pipelines.reports import html
from pipelines.reports.evaluation import side_by_side


def as_page(corpus: str, model: str, found: list[Suspect], looked: int, least: float, listed: str, compared: Callable[[str], str]) -> str:
    """Pictures, the surest first; `compared` is how the model's rule brings a label or a reading to what of it counts."""
    return html.render("suspects.html", {
        "title": f"Suspects of {corpus}", "count": f"{len(found):,}", "looked": f"{looked:,}", "corpus": corpus, "model": model, "least": f"{least:g}",
        "listed": listed, "words": [{"image": each.image, "label": each.text, "read": each.read, "confidence": f"{each.confidence:.2f}", "key": each.key,
                                     "rows": side_by_side(compared(each.text), compared(each.read))} for each in found]})
