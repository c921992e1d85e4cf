"""From settled labels to a LoRA adapter on a causal language model."""
