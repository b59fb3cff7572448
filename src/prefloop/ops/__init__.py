"""These are pure functions of tensors, with no classes, no state and no model library."""
