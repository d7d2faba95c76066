"""Corpus -> foreign formats: what other toolkits read."""
