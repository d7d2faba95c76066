"""Reading beyond greedy: beam searches, lexicons, a character n-gram, and the temperature of confidences. One file each."""
