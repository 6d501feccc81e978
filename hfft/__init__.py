"""Fine-tune pretrained image classifiers with most of the model frozen."""

__version__ = "0.1.0"
