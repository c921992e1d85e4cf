"""The demo task, its traffic, its simulated expert and its report."""
