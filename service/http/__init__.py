"""From the socket to a request and back: connections, bounds, routes, documentation."""
