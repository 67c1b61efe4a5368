"""Tests of models/evaluation."""
