"""Augmentation of what the trainable part is fed: cached activations, or the same computed anew for each batch."""
