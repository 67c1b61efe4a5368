"""Every fault at once, drawn from a seed, and the contract at the end: `make chaos SEED=7 MINUTES=5`."""
