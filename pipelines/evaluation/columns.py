"""A table for a terminal. Imports nothing: a list of runs must answer at once."""


def as_text(lines: list[tuple[str, ...]], header: tuple[str, ...]) -> str:
    """The table for a terminal: names left, numbers right, notes last."""
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header) - 1)]

    def line(cells: tuple[str, ...]) -> str:
        numbers = "  ".join(cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:], strict=True))
        return f"{cells[0].ljust(widths[0])}  {numbers}  {cells[-1]}".rstrip()

    return "\n".join([line(header), *map(line, lines)])
