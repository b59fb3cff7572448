"""Pure functions of tensors. No classes, no state, no model library."""
