"""From weights to what is served."""
