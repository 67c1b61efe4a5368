"""Recordings: files to arrays."""
