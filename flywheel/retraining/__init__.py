"""When and how the wheel turns."""
