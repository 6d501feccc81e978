"""Look after a set of images by a model's features: embed it, mend its labels, choose what to label next."""
