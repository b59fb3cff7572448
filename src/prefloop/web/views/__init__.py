"""Computes what the pages show."""
