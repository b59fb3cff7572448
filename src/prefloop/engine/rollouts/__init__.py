"""Lets servers sample: our own server, the dialects of others, and the engine that asks them (docs/rollouts.md)."""
