"""Access control, checks of requests, and time limits of connections."""
