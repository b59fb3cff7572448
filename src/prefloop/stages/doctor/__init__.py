"""Runs `prefloop doctor`, which finds what is wrong with a project, and tries the invariants of its models."""
