"""What is looked after while everything runs: data that is kept no longer, data that is erased."""
