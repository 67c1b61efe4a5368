"""Redis: connections, commands, and what to do when it fails."""
