"""Files as records and back: JSON, CSV, Parquet, compressed or not."""
