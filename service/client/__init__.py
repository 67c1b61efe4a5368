"""What talks to a running service, or to Prometheus, as their user."""
