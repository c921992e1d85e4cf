"""The statistics of a rollout: tests that hold at any look, and the checks made of them."""
