"""From waiting submissions to batches."""
