"""Detectors: from a reading and a state to a score and the next state."""
