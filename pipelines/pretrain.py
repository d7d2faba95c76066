"""`textray pretrain`: train an encoder on unlabeled images."""

from pipelines.training.command import command


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return command("pretrain", "Train an encoder on unlabeled images (self-supervised). The decoder is left out; `finetune` with\n"
                   "initialize_from=NAME starts from the encoder with a fresh decoder.",
                   "textray pretrain recipes/seqclr_crnn_tiny.yaml data.unlabeled.corpus=C training.steps=1000", argv)


if __name__ == "__main__":
    from pipelines.cli import run

    raise SystemExit(run("pretrain"))
