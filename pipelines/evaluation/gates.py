"""Least accuracies that an evaluation must reach."""


from pipelines.errors import BadInput
from pipelines.evaluation.measure import Result, total


def parse_gates(arguments: list[str], names: list[str]) -> dict[str, float]:
    """`NAME=ACCURACY` arguments: the least accuracy, in [0, 1], that each named set (or `average`) must reach."""
    gates = {}
    for argument in arguments:
        name, _, least = argument.rpartition("=")
        try:
            gates[name] = float(least)
        except ValueError:
            raise BadInput(f"--gate: expected NAME=ACCURACY such as {names[0]}=0.85, found {argument!r}") from None
        if name not in [*names, "average"] or not 0 <= gates[name] <= 1:
            raise BadInput(f"--gate: expected one of {', '.join(names)}, average, and an accuracy from 0 to 1, "
                           f"found {argument!r}")
    return gates


def failed_gates(gates: dict[str, float], results: list[Result]) -> list[str]:
    """A sentence for each gate that was missed."""
    scores = {result.words.name: result.evaluation.score for result in results} | {"average": total(results)}
    return [f"{name}: accuracy {score.accuracy:.4f} ({score.correct:,} of {score.words:,}) is below {gates[name]}"
            for name, score in scores.items() if name in gates and score.accuracy < gates[name]]
