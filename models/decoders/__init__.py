"""One file per decoder: each takes a memory (n, frames, width) and gives a Decoded."""

from models.decoders.decoded import Decoded, Reading

__all__ = ["Decoded", "Reading"]
