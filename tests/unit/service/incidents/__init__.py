"""Tests of service/incidents."""
