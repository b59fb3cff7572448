"""The routes of the server are sorted by who uses them."""
