"""The annotation server has pages where people rank, and an API for programs. It never imports torch."""
