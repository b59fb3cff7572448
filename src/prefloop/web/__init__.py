"""The annotation server: pages where people rank, and an API for programs. It never imports torch."""
