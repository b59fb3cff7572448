"""Each file is one algorithm: a frozen object whose fields are its options and whose methods are pure functions.

Nothing is imported here on purpose: `registry` knows them by name, and no algorithm knows another.
"""
