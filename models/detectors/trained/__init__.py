"""The detector that was trained on recordings of the same channels."""
