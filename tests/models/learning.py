"""Eight words by heart: what every recognizer must be able to learn."""

import torch


def learn(recognizer, pictures, words, *, steps, rate, mixed, known=None):
    """Train on one batch of pictures (n, 3, H, W) with AdamW and gradients of norm at most 5, in bfloat16 where `mixed`.

    It ends after `steps`, or earlier when the words have been known twice, 20 steps apart: read, or what `known` () says of the recognizer in eval mode,
    which it is left in. How soon depends on the processor's rounding, so `steps` is far more than it takes.
    """
    targets = recognizer.train().decoder.encode(words)
    optimizer = torch.optim.AdamW(recognizer.parameters(), lr=rate)
    known = known or (lambda: recognizer.read(pictures).texts == words)
    seen = 0
    for step in range(1, steps + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            decoded = recognizer(pictures, recognizer.decoder.inputs(targets))
        loss = recognizer.decoder.loss(decoded, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(recognizer.parameters(), 5)
        optimizer.step()
        if step % 20 == 0:
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
                recognizer.eval()
                seen += known()
            if seen == 2:
                return
            recognizer.train()
    recognizer.eval()
