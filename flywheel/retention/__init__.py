"""How long data is kept: what goes when, and what never does."""
