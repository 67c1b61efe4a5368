"""Repositories of models for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify


def pumps_in(folder: Path, artefacts: Sequence[Path]) -> Repository:
    """One in which artefacts are the versions of `pumps`, of which the first is champion."""
    repository = Repository(str(folder), verify)
    for artefact in artefacts:
        repository.add("pumps", artefact, "ann")
    repository.promote("pumps", "1", "ann")
    return repository
