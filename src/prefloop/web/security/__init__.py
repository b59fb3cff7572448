"""Controls access, checks requests, and limits how long connections may take."""
