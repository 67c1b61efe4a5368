"""Tests of models/artefact."""
