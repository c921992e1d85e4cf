"""Releases and their lineage."""
