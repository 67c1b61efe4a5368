"""The trainer: torch, offline; recordings in, an artefact out. Nothing of the service imports it."""
