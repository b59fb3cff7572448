"""Handing out items to people and taking their answers."""
