"""Artefacts on disk."""
