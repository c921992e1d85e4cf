"""Proving a challenger, step by step."""
