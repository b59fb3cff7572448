"""Connections to the database, locks and migrations."""
