"""Cut any model at a boundary, and prove the replay exact."""
