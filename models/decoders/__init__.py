"""Decoders, one per file."""
