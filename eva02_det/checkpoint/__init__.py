"""Level 1: reading, renaming, resizing and writing weights, with an account of every key."""
