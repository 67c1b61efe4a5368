"""Tests of service/intake."""
