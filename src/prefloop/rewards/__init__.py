"""Everything that gives a completion a number stands here behind one protocol."""
