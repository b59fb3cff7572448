"""Holds connections to the database, locks and migrations."""
