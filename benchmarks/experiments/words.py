"""The English words that `textray render` draws, one a line, for `--lexicon` and `--ngram`.

    python benchmarks/experiments/words.py > words.txt
"""

from pipelines.synthesis.words import english_words

if __name__ == "__main__":
    print("\n".join(english_words()))
