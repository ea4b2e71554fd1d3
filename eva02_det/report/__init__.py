"""Level 3: pictures and pages."""
