"""From a user's own images to a reader of them: what there is decides what is done, and a time budget how long."""
