"""What a CPU or GPU computes most: compiled C, Triton, attention, matrix products, each with a twin in plain torch."""
