"""Checkpoints that the papers' authors published: which one it is, and its tensors under our names."""

from models.charset import Charset
from models.published.abinet import ABINET
from models.published.four_stage import FOUR_STAGE
from models.published.hga import HGA
from models.published.layout import Description, Layout, State, unwrapped
from models.published.moran import MORAN
from models.published.parseq_hub import HUB_CRNN, PARSEQ, VITSTR
from models.published.svtr import PUBLISHED_SVTR
from models.recognizer import Recognizer
from models.recognizers import build

LAYOUTS: tuple[Layout, ...] = (FOUR_STAGE, MORAN, HGA, ABINET, HUB_CRNN, VITSTR, PARSEQ, PUBLISHED_SVTR)


def recognise(state: State, charset: Charset | None = None) -> tuple[Layout, Description]:
    """Whose state dict this is, and which recognizer. ValueError if nobody's."""
    names = unwrapped(state)
    layout = next((layout for layout in LAYOUTS if layout.matches(names)), None)
    if layout is None:
        raise ValueError("expected a state dict as one of these published it: " + "; ".join(layout.source for layout in LAYOUTS)
                         + f"; found the tensors {', '.join(sorted(names)[:5])} …")
    return layout, layout.describe(names, charset)


def from_published(state: State, charset: Charset | None = None) -> Recognizer:
    """The recognizer of a published state dict, with its weights, in eval mode. ValueError if nobody's, or if it does not fit."""
    layout, description = recognise(state, charset)
    recognizer = build(description.name, description.charset, **description.overrides)
    recognizer.load_state_dict(layout.load(recognizer, state))
    return recognizer.eval()
