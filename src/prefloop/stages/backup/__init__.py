"""Backup of a project, and the way back."""
