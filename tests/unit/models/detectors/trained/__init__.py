"""Tests of models/detectors/trained."""
