"""Operating a workspace: making it, starting and stopping it, asking how it stands."""
