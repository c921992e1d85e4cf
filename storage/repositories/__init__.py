"""Repositories: the stages' ports on SQL, one module per stage."""
