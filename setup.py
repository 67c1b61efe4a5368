"""The packages of the distribution: the client, and every one under service/ and models/, as gatewatch.*."""

from setuptools import find_packages, setup

setup(
    packages=[
        "gatewatch",
        "gatewatch.client",
        *(f"gatewatch.{name}" for name in find_packages(include=["service*", "models*"])),
    ]
)
