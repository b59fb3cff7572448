"""What must stay true of the answers while a policy is aligned: checks, bounds, statistics. No torch, no SQL."""
