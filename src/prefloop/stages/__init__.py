"""The verbs of the product, each a loop in plain sight. They meet only in the store."""
