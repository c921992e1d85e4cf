"""Traffic in, answers out."""
