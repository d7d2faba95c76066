"""The MLflow registry: versions that carry their own code, and which of them is the champion."""
