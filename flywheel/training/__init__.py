"""From a dataset to weights."""
