"""Trains a detector on recordings of its own channels."""
