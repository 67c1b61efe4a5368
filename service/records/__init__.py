"""What is kept of a stream: its state and its history, as bytes."""
