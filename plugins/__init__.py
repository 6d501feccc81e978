"""The built-in plugins, found through the entry points of ``hfft.backbones`` as any other is."""
