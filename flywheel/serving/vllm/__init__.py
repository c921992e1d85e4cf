"""vLLM as an engine: its processes, its plugin, and clients of its HTTP interface."""
