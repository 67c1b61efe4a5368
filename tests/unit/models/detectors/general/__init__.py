"""Tests of models/detectors/general."""
