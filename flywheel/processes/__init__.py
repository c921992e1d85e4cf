"""The long-running processes: one wiring function each, which builds its adapters."""
