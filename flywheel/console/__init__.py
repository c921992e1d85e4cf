"""One web app for the pages of every stage."""
