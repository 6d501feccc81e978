"""Train a plan's phases on what the cache gives, resumable to the last bit."""
