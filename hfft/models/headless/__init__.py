"""Backbones without a classifier in transformers, and the class that gives them one."""
