"""Visual encoders, one per file."""
