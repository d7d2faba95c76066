"""A recipe whose corpora are corpora: what it names of other formats is brought in first."""

from pipelines.ingestion.brought import brought_in
from pipelines.training.recipe import Recipe


def with_corpora(recipe: Recipe) -> Recipe:
    """The recipe with a corpus in place of every folder, LMDB or tar that is none yet. Raises BadInput as ingest does."""
    changed = {}
    for name, part in recipe.data:
        if part is not None:
            corpus = brought_in(part.corpus) if isinstance(part.corpus, str) else [brought_in(each) for each in part.corpus]
            changed[name] = part.model_copy(update={"corpus": corpus})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changed)})
