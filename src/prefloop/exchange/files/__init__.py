"""Reads files as records and writes them back: JSON, CSV, Parquet, compressed or not."""
