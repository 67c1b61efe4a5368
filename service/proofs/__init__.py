"""Proofs: an incident's verdicts packed with all that they follow from, and computed anew elsewhere."""
