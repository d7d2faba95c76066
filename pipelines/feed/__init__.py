"""Corpus -> training batches: which rows a stream uses, in which order, read in windows, decoded beside the consumer."""
