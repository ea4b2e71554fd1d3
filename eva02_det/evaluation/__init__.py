"""Level 2: evaluators and predictions."""
