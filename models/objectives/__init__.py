"""One paper, one file: each objective turns a batch into a loss."""
