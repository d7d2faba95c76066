"""State dicts as the papers' authors published them, under our names and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from models.charset import Charset
from models.recognizer import Recognizer

State = Mapping[str, Tensor]
WRAPPERS = ("module.", "model.")  # of DataParallel, and of a training system that holds the model


@dataclass(frozen=True)
class Description:
    """What a published state dict is: the arguments of `build`."""

    name: str
    charset: Charset
    overrides: dict[str, object]


def _as_it_is(recognizer: Recognizer, name: str, tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Layout:
    """How one repository, or several, wrote the tensors of a family of recognizers.

    source: the repositories, for people.
    matches: whether a state dict (without wrappers) is of this layout. At most one layout may match.
    describe: which recognizer it is, from names and shapes. A charset, if given, is used instead of the usual one for so many classes.
        ValueError where that cannot be told.
    prefixes: of a recognizer: (published prefix, ours) for all of our tensors; the first that fits counts.
    ignored: prefixes of published tensors that have no place here: tables that follow from sizes, parts that only training needs.
    to_ours, to_published: (recognizer, our name, tensor) -> tensor, where not only names differ (the order of classes).
    """

    source: str
    matches: Callable[[State], bool]
    describe: Callable[[State, Charset | None], Description]
    prefixes: Callable[[Recognizer], Sequence[tuple[str, str]]]
    ignored: tuple[str, ...] = ()
    to_ours: Callable[[Recognizer, str, Tensor], Tensor] = _as_it_is
    to_published: Callable[[Recognizer, str, Tensor], Tensor] = _as_it_is

    def published_name(self, recognizer: Recognizer, name: str) -> str:
        """The published name of one of the recognizer's parameters or buffers. ValueError if there is none."""
        for theirs, ours in self.prefixes(recognizer):
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        raise ValueError(f"expected a recognizer as {self.source} published it, found {recognizer.name}, whose {name} has no published name")

    def load(self, recognizer: Recognizer, state: State) -> dict[str, Tensor]:
        """The published state dict under our names, ready for the recognizer's load_state_dict.

        ValueError naming every tensor that is missing, unexpected, or of another shape than the recognizer's.
        """
        found, own = unwrapped(state), recognizer.state_dict()
        wanted = {self.published_name(recognizer, name): name for name in own}
        shapes = {theirs: self.to_published(recognizer, ours, own[ours]).shape for theirs, ours in wanted.items()}
        problems = {
            "missing": sorted(wanted.keys() - found.keys()),
            "unexpected": sorted(name for name in found.keys() - wanted.keys() if not name.startswith(self.ignored)),
            "of another shape": [f"{name} {tuple(found[name].shape)} instead of {tuple(shape)}"
                                 for name, shape in shapes.items() if name in found and found[name].shape != shape],
        }
        if any(problems.values()):
            found_instead = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
            raise ValueError(f"expected the tensors of {recognizer.name or 'this recognizer'} as {self.source} published them, "
                             f"found {found_instead}: choose the recognizer, charset and options of the file")
        return {ours: self.to_ours(recognizer, ours, found[theirs]) for theirs, ours in wanted.items()}

    def save(self, recognizer: Recognizer) -> dict[str, Tensor]:
        """The recognizer's state dict in this layout, without wrappers and without what is ignored."""
        return {self.published_name(recognizer, name): self.to_published(recognizer, name, tensor)
                for name, tensor in recognizer.state_dict().items()}


def unwrapped(state: State) -> dict[str, Tensor]:
    """The state dict without the wrappers that all of its names begin with."""
    names = dict(state)
    while names and (wrapper := next((wrapper for wrapper in WRAPPERS if all(name.startswith(wrapper) for name in names)), None)):
        names = {name.removeprefix(wrapper): tensor for name, tensor in names.items()}
    return names


def charset_for(count: int, given: Charset | None) -> Charset:
    """The charset of so many characters: the one given, or the usual one of 36, 62 or 94. ValueError if there is none."""
    if given is not None and len(given) == count:
        return given
    if given is not None or str(count) not in ("36", "62", "94"):
        raise ValueError(f"expected a charset of {count} characters for these weights, found {'none' if given is None else len(given)}: "
                         "give the file's own characters, in its order")
    return Charset.named(str(count))
