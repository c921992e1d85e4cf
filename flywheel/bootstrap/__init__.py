"""The only place that builds adapters: one wiring function per process."""
