"""Measuring: each figure is a median of several runs, with their spread, beside a limit measured in the same run."""
