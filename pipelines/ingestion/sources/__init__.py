"""Foreign formats: one file each, all yielding the same rows."""
