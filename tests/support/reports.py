"""Reports on versions, for what goes by them."""

from __future__ import annotations

from gatewatch.models.artefact.gate_report import Figures, GateReport, Material, Rule


def report_on(version: int, against: int | None, *, better: bool = True, model: str = "pumps") -> GateReport:
    figures = Figures(loss=0.5, anomalous=0, false_alarms=0, found=1)
    return GateReport(
        model=model,
        version=version,
        alias="champion",
        against=against,
        at="2026-01-01T00:00:00Z",
        by="ann",
        asked="0.100% of the readings",
        material=Material(
            origin="pumps.csv", streams=1, readings=1000, left_out={"readings": 1000, "judged": 7, "labelled": 0},
            trained_on=800, newest=200, since="2026-01-01T00:00:00Z", until="2026-01-02T00:00:00Z", usual=193, events=1,
        ),
        new=figures,
        before=figures,
        rules=[Rule(rule="its forecasts are no worse", kept=better, figures="loss 0.5000 against 0.5000")],
    )  # fmt: skip
