"""The annotation server: pages where people rank, and an API for programs. Never imports torch."""
