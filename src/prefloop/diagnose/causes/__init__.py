"""What can have gone wrong, one file a family."""
