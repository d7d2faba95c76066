"""Foreign formats -> corpus: what sources hold, the account of every row, duplicates, and benchmarks that are guarded."""
