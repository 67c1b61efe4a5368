"""The tests; README.md says what the long forms found."""
