"""Publish a run or a Space, without local paths."""
