"""Which evaluation images a pre-training corpus holds, and what that does to the numbers."""
