"""The options by which `textray evaluate` and `textray predict` choose strings; what becomes of them is in `searches`."""

import argparse

from pipelines.arguments import add_both_ways_up, not_negative


def add_options(arguments: argparse.ArgumentParser) -> None:
    """The options of `searches`."""
    arguments.add_argument("--beam", type=int, metavar="N", help="beam search that keeps N strings (default: greedy reading)")
    arguments.add_argument("--ngram", metavar="FILE", help="with --beam: a character n-gram guides it; a text file, of whose words one of "
                           "order 5 is made, or a .json that Ngram.save wrote")
    arguments.add_argument("--ngram-weight", type=not_negative, default=0.3, metavar="W", help="of its log probability (default: 0.3)")
    arguments.add_argument("--bcn", metavar="MODEL", help="with --beam: the language model of an ABINet (a run, a model folder or models:/NAME/1) "
                           "ranks anew what the beam found")
    arguments.add_argument("--bcn-weight", type=not_negative, default=0.3, metavar="W", help="of its log probability (default: 0.3)")
    arguments.add_argument("--lexicon", metavar="FILE|N|full", help="choose the likeliest word of a file, a word a line; of the true word "
                           "and N - 1 others drawn from the set's labels (50, 1000); of all labels of the set")
    add_both_ways_up(arguments)
