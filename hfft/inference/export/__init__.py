"""A finished model in other formats, preprocessing included, each held against PyTorch before it counts as done."""
