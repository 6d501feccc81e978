"""Labelled images in, model inputs out, and what is wrong with them."""
