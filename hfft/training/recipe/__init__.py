"""What a run decides by its images: how much to train, what the head begins with, whether the probe is better."""
