"""A model reads images that nobody labeled: as lines, as a file, or as a corpus of pseudo-labels."""
