"""What goes over the wire: readings, results, errors, and their names."""
