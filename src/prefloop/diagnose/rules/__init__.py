"""What is expected of a run, one file a family."""
