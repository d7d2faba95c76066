"""A recognizer as files and in use: encoded images in, strings out."""
