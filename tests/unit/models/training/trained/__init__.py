"""Tests of models/training/trained."""
