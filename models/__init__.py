"""What is learned. Plain PyTorch: no Ray, no files, no configuration objects."""
