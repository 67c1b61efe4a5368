"""From readings to results: batches, order, scores and corrections."""
