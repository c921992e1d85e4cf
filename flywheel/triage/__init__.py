"""Which sample needs an expert."""
