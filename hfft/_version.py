"""The version, which `hfft --version`, records and cards state."""

__version__ = "0.1.0"
