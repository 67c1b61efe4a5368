"""Trains the general network, on synthetic signals and on recordings."""
