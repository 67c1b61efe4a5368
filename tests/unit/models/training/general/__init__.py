"""Tests of models/training/general."""
