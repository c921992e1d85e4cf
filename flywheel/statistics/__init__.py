"""Formulas that stages ask: pure, without I/O, each with its source and a test of its size.

What stays in a stage is the question: which answers are compared, at which level, and what then.
"""
