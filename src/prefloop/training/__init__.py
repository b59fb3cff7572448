"""Holds what the stages that train share: batches, rollouts, learning rates, evaluation on held-out prompts."""
