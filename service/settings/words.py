"""Kinds of values that several settings have."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")


def a_word(word: object) -> object:
    """A word as it is meant, however it is written."""
    word = word.strip().lower() if isinstance(word, str) else word
    return {"warn": "warning", "fatal": "critical"}.get(word, word) if isinstance(word, str) else word


def _hosts(hosts: object) -> object:
    names = tuple(name.strip() for name in hosts.split(",")) if isinstance(hosts, str) else hosts
    if isinstance(names, tuple) and not all(_HOST_NAME.fullmatch(name) for name in names):
        raise ValueError("expected names of hosts without a port, with commas between, as gatewatch,gw.example.com")
    return names


HostNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)]
