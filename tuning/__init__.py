"""The search over what the papers tuned by hand."""
