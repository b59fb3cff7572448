"""One reader for each format of the field."""
