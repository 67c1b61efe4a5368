"""The detector of streams that nobody trained on."""
