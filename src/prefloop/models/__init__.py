"""Uses Hugging Face models: tokenization, policy, reward model, critic, and faster forward passes."""
