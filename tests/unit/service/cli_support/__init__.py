"""The parts that commands share."""
