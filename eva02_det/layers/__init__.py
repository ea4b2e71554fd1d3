"""Level 1: the pieces of networks and of their post-processing, in plain tensors."""
