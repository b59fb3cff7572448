"""Holds one reader for each file format."""
