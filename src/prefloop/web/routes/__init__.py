"""The addresses of the server, by who uses them."""
