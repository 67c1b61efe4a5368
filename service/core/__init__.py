"""The path of a reading: order, states, scores, corrections. Knows no socket."""
