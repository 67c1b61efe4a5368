"""Tests of models/detectors."""
