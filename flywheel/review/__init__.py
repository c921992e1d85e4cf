"""The expert queue."""
