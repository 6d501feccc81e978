"""Use a finished model: classify, evaluate, export, find runs."""
