"""Bytes to readings, results to bytes: one file a format (..._door.py), and what formats share."""
