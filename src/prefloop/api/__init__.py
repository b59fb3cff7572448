"""Holds what `import prefloop` offers: projects, models and functions of your own.

The command line goes through it too.
"""
