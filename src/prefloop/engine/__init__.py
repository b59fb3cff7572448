"""Everything that knows about devices and processes, behind five verbs: generate, forward, step, sync, save."""
