"""Scores whole words with a bidirectional cloze network, ABINet's language model, to rank what a beam found (`hypotheses.rescored`).

Such a network gives p(symbol | all other symbols), and no probability of a word. Their logarithms, added up over the word's characters and
its end, are its pseudo-log-likelihood (Salazar et al., "Masked language model scoring", ACL 2020).
"""

import torch
import torch.nn.functional as F

from models.charset import AttentionTokens
from models.decoders.language import LanguageModel
from models.decoders.symbols import encode_symbols
from models.precision import at_least_float32


@torch.no_grad()
def pseudo_log_likelihoods(model: LanguageModel, tokens: AttentionTokens, texts: list[str]) -> list[float]:
    """One number for each text. `tokens` are the ids that the model was taught with; ValueError for a text that they cannot write.

    The caller chooses eval mode.
    """
    if not texts:
        return []
    steps, classes = model.steps, model.classifier.out_features
    rows = encode_symbols(texts, tokens, steps - 1).to(model.embedding.weight.device)[:, 1:]  # (n, steps): characters, end, padding
    ends = rows == tokens.end
    counted = ends.cumsum(1) - ends.long() == 0  # up to the first end symbol
    symbols = rows.where(counted, tokens.end)  # padding may be no class; nothing looks at it
    _, logits = model(F.one_hot(symbols, classes).to(model.embedding.weight.dtype), counted.sum(1).clamp(min=2))
    of_symbols = at_least_float32(logits).log_softmax(2).gather(2, symbols.unsqueeze(2)).squeeze(2)  # (n, steps)
    return (of_symbols * counted).sum(1).tolist()
