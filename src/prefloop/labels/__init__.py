"""Checks, merges, compares and simulates people's rankings, and compares them with scores, without SQL or torch."""
