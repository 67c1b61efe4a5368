"""What the pages' blocks call: our command, and what stands for programs that are not here or would change things.

`curl` is our own client. `make`, `pip`, `docker` and `kubectl` do nothing, but fail where they could not do what they
are asked.
"""

from __future__ import annotations

import os
import re
import runpy
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx2
import typer
import yaml

from gatewatch.service.cli import app
from tests.support import forked

ROOT: Final = Path(__file__).parent.parent.parent
URL: Final = "http://127.0.0.1:8000"
"""Where the pages have the service."""

PAGE_URL: Final = "PAGE_URL"
"""The variable that says where it is."""


def write(folder: Path) -> None:
    """Write all programs into a folder."""
    for name in PROGRAMS:
        forked.write_program(folder / name, ["-m", "tests.support.programs", name])
    forked.write_program(folder / "python", [])


def _url() -> str:
    return os.environ[PAGE_URL]


def gatewatch(arguments: list[str]) -> None:
    """Run the command, with the page's service where it asks one.

    A training for which the page does not say how long it is to take is a short one; a service ends once it is ready.
    """
    if arguments[:1] == ["serve"]:
        os.environ.setdefault("GATEWATCH_PORT", "0")
        os.environ.setdefault("GATEWATCH_DATA_DIR", "another-service")
        end, log = os.pipe()
        if pid := os.fork():
            os.close(log)
            for line in open(end):  # noqa: SIM115
                print(line, end="", file=sys.stderr)
                if "Application startup complete" in line:
                    os.kill(pid, signal.SIGTERM)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os.dup2(log, 2)
        os.close(end)
    elif arguments[:1] == ["train"] and not {"--epochs", "--check"} & {*arguments}:
        arguments = [*arguments, "--epochs", "1", "--hidden", "3"]
        if "--one-model-per" in arguments:
            arguments += ["--processes", "1"]  # others would be started anew, 4 s each
    elif "--url" not in arguments and _asks_a_service(arguments):
        arguments = [*arguments, "--url", _url()]
    sys.argv = ["gatewatch", *arguments]
    runpy.run_module("gatewatch", run_name="__main__", alter_sys=True)


def _asks_a_service(arguments: list[str]) -> bool:
    """Whether the command asks the service at URL where it is told no other."""
    return any("--url" in parameter.opts and parameter.default == URL for parameter in _command(arguments)[0].params)


def _command(arguments: list[str]) -> tuple[Any, list[str]]:
    """The command that arguments name, and the rest of them."""
    found: Any = typer.main.get_command(app)
    while arguments and arguments[0] in getattr(found, "commands", ()):
        found, arguments = found.commands[arguments[0]], arguments[1:]
    return found, arguments


def curl(arguments: list[str]) -> None:
    """Print the answer to a request; end with an error where it is one."""
    method, body, headers, url = "", None, {}, ""
    rest = iter(arguments)
    for argument in rest:
        if argument == "-X":
            method = next(rest)
        elif argument == "-d":
            body = next(rest)
        elif argument == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif argument != "-s":
            url = re.sub(r"^https://gatewatch\.example\.com", _url(), argument)
    method = method or ("GET" if body is None else "POST")
    reply = httpx2.request(method, url, content=body, headers=headers, timeout=60)
    print(reply.text)
    sys.exit(0 if reply.is_success else 22)


def make(arguments: list[str]) -> None:
    """Print what a target would run."""
    _replace_by(["make", "--dry-run", f"--directory={ROOT}", *arguments])


def pip(arguments: list[str]) -> None:
    """Install this project: are there the extras?"""
    assert arguments[0] == "install", arguments
    (wanted,) = re.findall(r"^\.\[(.*)\]$", arguments[1])
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(wanted.split(",")) <= extras.keys(), arguments


def docker(arguments: list[str]) -> None:
    """Compose: are there the services, in their profiles? What runs in a service must be a program of its image."""
    assert arguments[0] == "compose", arguments
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    profiles, (verb, *rest) = set[str](), arguments[1:] if arguments[1] != "--profile" else arguments[3:]
    if arguments[1] == "--profile":
        profiles.add(arguments[2])
    there = {name for name, one in services.items() if set(one.get("profiles", [])) <= profiles}
    if verb == "up":
        assert {*rest} <= {"-d", "--build", *there}, arguments
    else:
        assert verb in ("run", "exec"), arguments
        service, *inside = [one for one in rest if one != "--rm"]
        assert service in there, arguments
        if verb == "exec":
            program, *inside = inside
            assert program.removesuffix("/gatewatch") in (ROOT / "Dockerfile").read_text(), program
        command, rest = _command(inside)
        command.make_context(inside[0], rest)


def kubectl(arguments: list[str]) -> None:
    """Make what would be sent to a cluster."""
    if arguments[:2] == ["apply", "-k"]:
        arguments = ["kustomize", *arguments[2:]]
    else:
        arguments = [*arguments, "--dry-run=client", "--output=yaml"]
    _replace_by(["kubectl", *arguments])


def _replace_by(command: list[str]) -> None:
    """Go on as a program that is really there: past the folder of these ones."""
    os.environ["PATH"] = os.environ["PATH"].partition(os.pathsep)[2]
    os.execvp(command[0], command)  # noqa: S606


PROGRAMS: Final[dict[str, Callable[[list[str]], None]]] = {
    program.__name__: program for program in (gatewatch, curl, make, pip, docker, kubectl)
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2:])
