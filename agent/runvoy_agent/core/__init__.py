"""Decisions, and nothing but decisions: no I/O, no clock, no randomness. What goes in is loaded, what comes out is
written by the handlers."""
