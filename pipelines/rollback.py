"""`textray rollback`: make the champion of before champion again."""

import argparse

from pipelines.arguments import Parser


def parser() -> argparse.ArgumentParser:
    """The command line of `textray rollback`."""
    arguments = Parser(prog="textray rollback", formatter_class=argparse.RawDescriptionHelpFormatter,
                       description="Move the alias `champion` of a registered model back to the version that had it before, or to the one that is named.",
                       epilog="examples:\n  textray rollback words\n  textray rollback words --to 3")
    arguments.add_argument("name", help="the registered model's name")
    arguments.add_argument("--to", metavar="VERSION", help="this version (default: the champion before the present one)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray rollback`."""
    options = parser().parse_args(argv)
    from pipelines.registry.champion import rollback
    print(rollback(options.name, options.to))
    return 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("rollback"))
