"""Twins in memory of what lies outside, for unit tests and simulation."""
