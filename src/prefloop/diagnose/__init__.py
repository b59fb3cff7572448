"""Holds rules over recorded figures that say what is wrong with a run, for every stage, view and page."""
