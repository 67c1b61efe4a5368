"""Incidents: what is anomalous on a stream from its beginning to its end, kept to be read, answered and drawn."""
