"""Text to number: everything that can judge a completion, behind one protocol."""
