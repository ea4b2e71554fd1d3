"""Level 2: how processes start and find each other."""
