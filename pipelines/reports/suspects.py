"""The page of a corpus' suspects: what is labeled, and what a model reads instead."""

from pipelines.prediction.suspects import Suspect
from pipelines.reports import html


def as_page(corpus: str, model: str, found: list[Suspect], looked: int, least: float, listed: str) -> str:
    """Pictures, the surest first."""
    said = (f"{len(found):,} of {looked:,} labels of {corpus} are read otherwise by {model} with a confidence of {least:g} or more. Some are its mistakes, the others slips of "
            f"whoever labeled. Write what is right into the column `correct` of {listed} (- takes the label away, nothing leaves it), then: textray relabel {corpus} {listed} --out NEW")
    pictures = html.pictures(html.Picture(each.image, [("label", each.text), ("read", f"{each.read or '(nothing)'}  {each.confidence:.2f}"), ("key", each.key)],
                                          frozenset({"label"})) for each in found)
    return html.page(f"Suspects of {corpus}", html.paragraph(said), pictures if found else html.paragraph("There are none."))
