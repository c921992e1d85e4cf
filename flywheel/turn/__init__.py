"""The making of a release: built, trained, compressed, evaluated, assembled, or brought in."""
