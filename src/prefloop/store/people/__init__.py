"""Accounts, sessions, tokens and roles: who may do what."""
