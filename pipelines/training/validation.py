"""What a run is judged by while it goes on: how the labels of its validation words are compared."""

from pipelines.corpus.reader import Corpus
from pipelines.corpus.sampling import spread_rows
from pipelines.errors import BadInput
from pipelines.evaluation.protocols import Rule


def check_words(corpus: Corpus, count: int, rule: Rule) -> list[str]:
    """The labels of the words; looks at nothing else, before anything is trained.

    Raises:
        BadInput: a corpus without labels, or with labels of which the rule leaves nothing to compare.
    """
    texts = [text for (text,) in spread_rows(corpus, count, ["text"])]
    if not texts:
        raise BadInput(f"data.validation: expected labeled words in {corpus.path}, found {corpus.rows:,} rows without a label: give a corpus that has "
                       "labels, or leave validation out")
    if not any(map(rule.compared, texts)):
        raise BadInput(f"data.validation: expected labels that the rule {rule.name} can compare, found none among the {len(texts):,} words of {corpus.path} "
                       f"(the first is {texts[0]!r}): choose another recognizer.rule or recognizer.charset")
    return texts
