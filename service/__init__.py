"""The service: readings in over HTTP, stream states in Redis, scores, metrics and alerts out."""
