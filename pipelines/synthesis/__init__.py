"""Synthetic words: what they say, how they look, one picture of one word, and a corpus of many."""
