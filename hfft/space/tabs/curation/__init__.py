"""Tabs that look after images: labels that are probably wrong, and photos to label next."""
