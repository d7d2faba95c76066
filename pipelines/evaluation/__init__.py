"""How good a recognizer is: what is compared, by which numbers, on which words, and how honest its confidences are."""
