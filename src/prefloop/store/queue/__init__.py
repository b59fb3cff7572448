"""Hands out items to people and takes their answers."""
