"""Outlets: who is told of incidents, beside those who ask."""
