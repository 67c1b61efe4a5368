"""The page that a browser gets at /."""
