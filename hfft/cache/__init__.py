"""The frozen prefix's activations, computed once."""
