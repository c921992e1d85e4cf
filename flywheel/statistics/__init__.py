"""Tests that several stages ask: pure, each with its source and a test of its size."""
