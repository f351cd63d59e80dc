"""Judging: what must hold, seen from the events alone and from the state as a whole, without the core's own rules."""
