"""Samples one token after the other, for many prompts at once."""
