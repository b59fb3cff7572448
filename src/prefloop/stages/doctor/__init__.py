"""`prefloop doctor`: what is wrong with a project, and the invariants of its models."""
