"""Metrics, health and logs of every process."""
