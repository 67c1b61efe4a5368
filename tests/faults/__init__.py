"""Loads under faults: long forms, and their short tests."""
