"""Our recognizers beside reference implementations: their records, and their own code."""
