"""Built-in checks of answers, one file a family."""
