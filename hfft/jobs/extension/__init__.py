"""Runs that come of finished ones: with more images or classes, or as the mean of several."""
