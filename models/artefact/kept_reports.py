"""KeptReports: how versions of a repository's models stood against the champion when they were looked at.

reports/pumps.3.0002.json   on version 3 of `pumps`, the second one; beside it the same for people, .txt
"""

from __future__ import annotations

import re
from typing import Final

from pydantic import ValidationError

from gatewatch.models.artefact.files import LARGEST_MANIFEST
from gatewatch.models.artefact.gate_report import GateReport
from gatewatch.models.artefact.model_log import ATTEMPTS
from gatewatch.models.artefact.place import Place
from gatewatch.models.artefact.versions import MODEL_NAME, Model, Version
from gatewatch.models.errors import ChangedMeanwhile, NotBetter, RepositoryError

_REPORT_NAME: Final = re.compile(rf"({MODEL_NAME.pattern})\.([1-9][0-9]{{0,8}})\.([0-9]{{4,}})\.json")


class KeptReports:
    """The reports of a repository."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def add(self, report: GateReport) -> int:
        """Keep a report on a version beside it; returns its number, 1 for the first on this version."""
        number = max(self.numbers(report.model, report.version), default=0) + 1
        for _ in range(ATTEMPTS):
            name = _report_name(report.model, report.version, number)
            if self._place.create(f"{name}.json", report.model_dump_json(indent=1).encode()):
                self._place.create(f"{name}.txt", report.text().encode())
                return number
            number += 1
        raise ChangedMeanwhile(f"others kept adding reports on {report.model}@{report.version}; do it again")

    def numbers(self, name: str, version: int) -> list[int]:
        """The numbers of the reports on a version, the first one first."""
        found = (_REPORT_NAME.fullmatch(file) for file in self._place.names("reports"))
        return sorted(int(one[3]) for one in found if one and (one[1], int(one[2])) == (name, version))

    def report(self, name: str, version: int, number: int) -> GateReport:
        """A report on a version. Raises RepositoryError where it cannot be read."""
        file = f"{_report_name(name, version, number)}.json"
        try:
            return GateReport.model_validate_json(self._place.read(file, LARGEST_MANIFEST))
        except ValidationError as error:
            raise RepositoryError(f"{self._place.url}/{file}: it is damaged, or of a newer gatewatch") from error

    def better(self, model: Model, version: Version, alias: str) -> str:
        """What the last report on a version says of it, with the report's number. Raises NotBetter."""
        name, numbers = f"{model.model}@{version.version}", self.numbers(model.model, version.version)
        if not numbers:
            raise NotBetter(
                f"there is no report on {name}: gatewatch models promote --if-better with recordings makes one, and so "
                "does gatewatch retrain"
            )
        number = numbers[-1]
        report = self.report(model.model, version.version, number)
        now = model.aliases[alias].version if alias in model.aliases else None
        if report.against != now:
            points = "to no version" if now is None else f"to version {now}"
            raise NotBetter(
                f"report {number} on {name} holds it against {report.other}, and {model.model}@{alias} points {points} "
                "by now: hold it against that one"
            )
        if not report.better:
            raise NotBetter(f"{name} is {report.line()} (report {number})")
        return f"{report.line()} (report {number})"


def _report_name(name: str, version: int, number: int) -> str:
    return f"reports/{name}.{version}.{number:04d}"
