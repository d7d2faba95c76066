"""A checkpoint that somebody published, as a recognizer of this package."""

from dataclasses import dataclass
from typing import Any

from models.charset import Charset
from models.published import recognise
from models.published.layout import State
from models.recognizer import Recognizer
from models.recognizers import build
from pipelines.errors import BadInput


@dataclass(frozen=True)
class Imported:
    """A published recognizer with its weights, and whose it is."""

    recognizer: Recognizer
    source: str  # the repositories that publish such files


def import_weights(state: State, charset: Charset | None = None, options: dict[str, Any] | None = None) -> Imported:
    """The recognizer of a published state dict, in eval mode.

    Args:
        charset: the file's characters in its order, where they are not the usual ones.
        options: of the recognizer, where the file's shapes do not tell them.

    Raises:
        BadInput: nobody's state dict; a charset or an option that does not fit; tensors that are missing or unexpected, by name.
    """
    try:
        layout, description = recognise(state, charset)
        recognizer = build(description.name, description.charset, **{**description.overrides, **(options or {})})
        recognizer.load_state_dict(layout.load(recognizer, state))
    except (ValueError, TypeError) as problem:  # TypeError: an option of a wrong type
        raise BadInput(str(problem)) from None
    return Imported(recognizer.eval(), layout.source)
