"""Manages accounts, sessions, tokens and roles: who may do what."""
