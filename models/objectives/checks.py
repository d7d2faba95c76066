"""Constants of objectives that make no sense are refused, each with a sentence. All raise ValueError."""

from models.recognizer import Recognizer


def check_weights(objective: str, weights: dict[str, float]) -> None:
    """Factors of losses are 0 or more."""
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{objective} expects {name} of 0 or more, found {weight}")


def check_thresholds(objective: str, thresholds: dict[str, float]) -> None:
    """What is compared with probabilities lies from 0 to 1."""
    for name, threshold in thresholds.items():
        if not 0 <= threshold <= 1:
            raise ValueError(f"{objective} expects {name} from 0 to 1, found {threshold}: it is compared with probabilities")


def check_decay(objective: str, name: str, decay: float, published: float) -> None:
    """What a moving average keeps of itself lies from 0 to 1."""
    if not 0 <= decay <= 1:
        raise ValueError(f"{objective} expects {name} from 0 to 1, found {decay}: the paper's is {published}")


def check_temperature(objective: str, temperature: float, instead: str) -> None:
    """What logits are divided by is above 0. `instead`: how to get hard labels."""
    if not temperature > 0:
        raise ValueError(f"{objective} expects sharpening_temperature above 0, found {temperature}: 1 does not sharpen; "
                         f"for hard labels use {instead}")


def check_positive(objective: str, values: dict[str, float]) -> None:
    """Sizes and temperatures are above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{objective} expects {name} above 0, found {value}: give a positive number")


def check_score(objective: str, recognizer: Recognizer, score: str | None) -> None:
    """The probability of a string over its alignments is a score of CTC."""
    if score in ("string", "string_mean") and recognizer.decoder.kind != "ctc":
        raise ValueError(f"{objective}: score={score} expects a CTC decoder, whose strings have many alignments, found one of the kind "
                         f"{recognizer.decoder.kind}: use score={'product' if score == 'string' else 'geometric_mean'}, which is the same there")


def check_one_width(objective: str, recognizer: Recognizer, why: str) -> None:
    """Images that keep their aspect ratio come in several widths."""
    if recognizer.aspect == "keep":
        raise ValueError(f"{objective} expects images of one width, {why}, found a recognizer with aspect keep: use aspect pad or stretch")


def check_steps(objective: str, name: str, steps: int | None, needed: bool) -> None:
    """A number of training steps, where one is needed or given."""
    if (steps is None and needed) or (steps is not None and not steps >= 1):
        raise ValueError(f"{objective} expects {name} of 1 or more, found {steps}: a schedule needs to know how many steps it has")
