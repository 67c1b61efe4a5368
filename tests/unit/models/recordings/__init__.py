"""Tests of models/recordings."""
