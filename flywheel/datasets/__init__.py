"""Settled labels to immutable versions."""
