"""Gatewatch: an anomaly score for every reading of every sensor stream.

gatewatch.service is the folder service/, gatewatch.models the folder models/. Installed, setuptools joins them
(package-dir in pyproject.toml); in a clone, the two links beside this file do, for mypy and for `python -m gatewatch`.
"""
