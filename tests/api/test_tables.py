"""Tables of the pages that list what the code has: architectures, settings, policies, options of the client."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import get_args

import pytest
from starlette.testclient import TestClient

from gatewatch.client.settings import ClientSettings
from gatewatch.models.training.architectures import build, state_bytes
from gatewatch.models.training.config import Architecture, TrainConfig
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.http.openapi import Stream
from gatewatch.service.policies.policy import Policy
from tests.api.test_documents import ROOT, shown
from tests.support.samples import post, readings


def rows(page: str, heading: str = "") -> list[list[str]]:
    """The rows of the first table with names as code, below a heading: the cells of each, without code marks."""
    text = (ROOT / page).read_text().partition(heading)[2] if heading else (ROOT / page).read_text()
    table = re.search(r"^\|[^\n]*\n\|[-|]+\n((?:\| `[^\n]*\n)+)", text, re.MULTILINE)
    assert table is not None, heading
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in table[1].splitlines()]


def value_of(formula: str, sizes: Mapping[str, int]) -> int:
    """Of a formula as the page writes it: `2 L H + M H`."""
    total = 0
    for term in formula.split(" + ") if "(" not in formula else [formula]:
        product = 1
        for factor in re.findall(r"\([^)]*\)|\w+", term):
            inner = value_of(factor.strip("()"), sizes) if factor[0] == "(" else sizes.get(factor)
            product *= int(factor) if inner is None else inner
        total += product
    return total


def test_the_page_of_architectures_has_each_with_the_size_of_its_state() -> None:
    told = {name: formula for name, _, formula in rows("docs/architectures.md")}
    assert set(told) == set(get_args(Architecture))
    for name, formula in told.items():
        for sizes in ({"C": 3, "L": 2, "H": 8, "M": 32}, {"C": 2, "L": 3, "H": 16, "M": 64}):
            config = TrainConfig(architecture=name, layers=sizes["L"], hidden=sizes["H"], memory=sizes["M"])
            network = build(config, sizes["C"])
            if formula == "none":
                assert network.kind == "recording"
                continue
            expected, found = value_of(formula.removeprefix("about "), sizes), state_bytes(network) // 4 - sizes["C"]
            assert found == pytest.approx(expected, rel=0.1 if formula.startswith("about") else 0), name


def test_the_settings_of_a_stream_are_those_of_the_page_and_of_its_description(client: TestClient) -> None:
    """The API's description of a stream has all of them; each is what a stream says of itself."""
    told = {name: default for name, default, _ in rows("docs/http-api.md", "## A stream's settings")}
    fields = StreamSettings.model_fields
    assert told == {name: shown(field.default) for name, field in fields.items()}
    post(client, readings("described", 1))
    assert set(client.get("/v1/streams/described").json()) == set(Stream.__struct_fields__)
    assert set(fields) <= set(Stream.__struct_fields__)


def test_the_page_of_policies_has_each_field() -> None:
    assert {row[0] for row in rows("docs/policies.md")} == set(Policy.model_fields)


def test_the_page_of_the_client_has_each_option_with_its_default() -> None:
    told = {name: default.replace(",", "") for name, default, _ in rows("docs/client.md", "## Options")}
    assert told == {field.name: shown(field.default) for field in dataclasses.fields(ClientSettings)}
