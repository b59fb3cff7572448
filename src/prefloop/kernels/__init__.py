"""Computes the costly parts of a model: compiled C, Triton, attention, matrix products. Each has a twin in torch."""
