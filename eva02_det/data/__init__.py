"""Level 2: data sets on disk, their registration and the augmentations."""
