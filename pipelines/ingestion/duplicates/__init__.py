"""Which images are there already: hashes of each, keys that bring like ones together, and the measure that decides."""
