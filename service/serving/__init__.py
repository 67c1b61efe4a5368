"""Which model scores which stream."""
