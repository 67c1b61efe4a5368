"""One file a format: bytes to readings, results to bytes."""
