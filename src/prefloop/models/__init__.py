"""Hugging Face models behind small adapters: text to ids, policy, reward model, critic."""
