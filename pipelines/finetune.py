"""`textray finetune`: train a recognizer on labels, alone or with unlabeled images."""

from pipelines.training.command import command


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return command("finetune", "Train a recognizer on labels, alone (objective supervised) or with unlabeled images (ccr, fixmatch, visu and "
                   "others: docs/training.md).",
                   "textray finetune recipes/ccr_crnn_tiny.yaml data.labeled.corpus=S data.unlabeled.corpus=C initialize_from=seqclr_crnn_tiny",
                   argv)


if __name__ == "__main__":
    from pipelines.cli import run

    raise SystemExit(run("finetune"))
