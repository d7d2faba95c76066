"""60,000 random codes, one a line: groups of letters and of digits, some with a separator between them, as labels of wires and parts have.

Short ones come again and again, as they do on labels: a list without repetitions would hardly hold a code of one or two characters.

    python benchmarks/experiments/codes.py > codes.txt
"""

import random
import string

COUNT, LONGEST, SEPARATED, SIGNED = 60_000, 10, 0.2, 0.12


def group(draw: random.Random) -> str:
    """One to three letters, or one to four digits."""
    letters, lengths = (string.ascii_uppercase, (1, 1, 1, 2, 2, 3)) if draw.random() < 0.38 else (string.digits, (1, 1, 2, 2, 2, 3, 3, 4))
    return "".join(draw.choice(letters) for _ in range(draw.choice(lengths)))


def code(draw: random.Random) -> str:
    """One to three groups."""
    text = ("-=+"[draw.randrange(3)] if draw.random() < SIGNED else "") + group(draw)
    for _ in range(draw.choice((0, 1, 1, 2, 2))):
        text += (draw.choice(".:-/_") if draw.random() < SEPARATED else "") + group(draw)
    return text


def main() -> None:
    """Print them, sorted."""
    draw, codes = random.Random(0), []
    while len(codes) < COUNT:
        text = code(draw)
        if len(text) <= LONGEST:
            codes.append(text)
    print("\n".join(sorted(codes)))


if __name__ == "__main__":
    main()
