"""The packages of the distribution: every one under service/ and models/, with `gatewatch.` before its name."""

from setuptools import find_packages, setup

setup(packages=["gatewatch", *(f"gatewatch.{name}" for name in find_packages(include=["service*", "models*"]))])
