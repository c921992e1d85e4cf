"""The loop's stages and rules."""

__version__ = "0.1.0"
