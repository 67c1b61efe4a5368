"""Speed and detection quality, side by side with peers; never part of the tests."""
