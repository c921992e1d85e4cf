"""One module per Faust agent."""
