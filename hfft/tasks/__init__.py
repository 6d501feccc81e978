"""What the labels of images mean: one label each, several, or numbers; one object says all that follows from it."""
