"""Backs up a project, and restores it."""
