"""Manages a project on disk: its settings, its runs, its models, and which of them count."""
