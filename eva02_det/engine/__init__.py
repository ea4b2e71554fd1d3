"""Level 3: training and evaluation runs."""
