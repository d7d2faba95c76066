"""Eight words by heart: what every recognizer must be able to learn."""

import torch


def learn(recognizer, pictures, words, *, steps, rate, mixed):
    """Train on one batch of pictures (n, 3, H, W) with AdamW and gradients of norm at most 5, in bfloat16 where `mixed`.

    The recognizer is left in eval mode.
    """
    targets = recognizer.train().decoder.encode(words)
    optimizer = torch.optim.AdamW(recognizer.parameters(), lr=rate)
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            decoded = recognizer(pictures, recognizer.decoder.inputs(targets))
        loss = recognizer.decoder.loss(decoded, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(recognizer.parameters(), 5)
        optimizer.step()
    recognizer.eval()
