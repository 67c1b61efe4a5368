"""Policies: what people ask of streams, by name or by pattern, and how every process comes to know it."""
