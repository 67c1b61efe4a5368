"""Tests of models/training/architectures."""
