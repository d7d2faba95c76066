"""One file per family of recognizers: the parts put together, with the paper's initialisation."""
