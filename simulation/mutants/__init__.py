"""Mutants: seeded bugs, put into the core from outside, and the hunt that must kill each."""
