"""A recipe trained: its run's folder, the loop, what a worker does, and Ray Train around it."""
