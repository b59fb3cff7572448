"""Hugging Face models as prefloop uses them: tokenization, policy, reward model, critic, and faster forward passes."""
