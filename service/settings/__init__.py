"""Every knob of the service: its unit, its default. Read once, in create_app, from the environment."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from pydantic_settings import BaseSettings, SettingsConfigDict

from gatewatch.service.settings.access import AccessSettings
from gatewatch.service.settings.http import ADDRESS, HttpSettings
from gatewatch.service.settings.incidents import IncidentSettings
from gatewatch.service.settings.models import ModelSettings
from gatewatch.service.settings.process import ProcessSettings
from gatewatch.service.settings.readings import ReadingSettings
from gatewatch.service.settings.storage import StorageSettings, repository_in
from gatewatch.service.settings.urls import redact

__all__ = ["COMMANDS_KEY", "PREFIX", "RENAMED", "Settings", "redact", "repository_in", "strays", "variable"]

PREFIX: Final = "GATEWATCH_"
COMMANDS_KEY: Final = "GATEWATCH_KEY"
"""No setting of the service: the API key that commands show to one, see client/remote.py."""

RENAMED: Final = {"REMEMBERED_BYTES": "RECORD_CACHE_BYTES"}
"""Variables, without the prefix, that have another name now; the old one is read where the new one is not set."""

_OF_KUBERNETES: Final = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
"""What a container gets from Kubernetes for a service called gatewatch or gatewatch-..., and from Docker for a link."""


class Settings(
    IncidentSettings,
    ReadingSettings,
    ProcessSettings,
    HttpSettings,
    AccessSettings,
    StorageSettings,
    ModelSettings,
    BaseSettings,
):
    """Settings from environment variables GATEWATCH_<NAME>; an empty one, usual in compose files, is not set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        populate_by_name=True,
        extra="ignore",
        hide_input_in_errors=True,  # a URL may hold a password
    )

    def redacted(self) -> dict[str, object]:
        """The settings as environment variables, without the password in the URL."""
        shown = {variable(name): value for name, value in self.model_dump(mode="json").items()}
        if self.redis_url:
            shown["GATEWATCH_REDIS_URL"] = redact(self.redis_url)
        if self.webhook_url:  # its path may be a secret
            shown["GATEWATCH_WEBHOOK_URL"] = "{0.scheme}://{0.netloc}/***".format(urlsplit(self.webhook_url))
        return shown


def variable(field: str) -> str:
    """The environment variable of a field, or of one that is told by its variable."""
    return PREFIX + field.upper().removeprefix(PREFIX)


def strays(environment: Mapping[str, str]) -> list[str]:
    """A line for each variable that begins as ours do and is not read: misspelt, or put there by others."""
    known = {field.upper(): variable(field) for field in Settings.model_fields}
    read = {*known.values(), COMMANDS_KEY}
    lines = []
    for name, value in sorted(environment.items()):
        upper = name.upper()
        if upper == variable("port") and ADDRESS.fullmatch(value):
            lines.append(f"{name} is an address, which Kubernetes or Docker put there: ignored")
        elif upper.removeprefix(PREFIX) in RENAMED and upper.startswith(PREFIX):
            lines.append(f"{name} is called {PREFIX}{RENAMED[upper.removeprefix(PREFIX)]} now: set that instead")
        elif upper.startswith(PREFIX) and upper not in read and not _OF_KUBERNETES.fullmatch(upper):
            near = difflib.get_close_matches(upper.removeprefix(PREFIX), known, 1)
            lines.append(f"{name} is not a setting" + (f"; {known[near[0]]} is" if near else ""))
    return lines
