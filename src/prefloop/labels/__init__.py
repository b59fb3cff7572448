"""Code without SQL or torch that checks, merges, compares and simulates people's rankings, and compares them with
scores.
"""
