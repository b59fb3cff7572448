"""Holds the verbs of the product, one file each.

A stage imports no other stage; they meet in the store and in `training`.
"""
