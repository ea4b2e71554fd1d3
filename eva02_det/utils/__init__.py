"""Level 0: what every package may use; knows nothing of models or data."""
