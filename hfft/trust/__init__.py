"""When to believe a model: calibrated probabilities, unknown images, sets of labels, accuracy where it is sure."""
