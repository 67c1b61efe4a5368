"""The settings of the environment, for commands: what is wrong with them becomes one line."""

from __future__ import annotations

from pydantic import ValidationError

from gatewatch.models.errors import GatewatchError
from gatewatch.service.settings import Settings, redact, variable


def settings_of_environment() -> Settings:
    """The settings. Raises GatewatchError: names each variable that is wrong, without passwords."""
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            if not problem["loc"]:  # of several settings together
                lines.append(problem["msg"].removeprefix("Value error, "))
                continue
            name = variable("_".join(str(part) for part in problem["loc"]))
            value = redact(problem["input"]) if name == variable("redis_url") else problem["input"]
            message = problem["msg"].removeprefix("Value error, ")
            found = "is not set" if problem["type"] == "missing" else f"is {value!r:.80}: {message}"
            lines.append(f"{name} {found}")
        raise GatewatchError("; ".join(lines)) from error
