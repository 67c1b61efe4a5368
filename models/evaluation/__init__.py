"""How good scores are: against labels, and as false-alarm rates."""
