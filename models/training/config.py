"""TrainConfig: every knob of the trainer, with its bounds and default."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Architecture = Literal[
    "lstm", "peephole", "gru", "rnn", "attention", "minlstm", "slstm", "ssm", "window", "transformer", "bilstm"
]
"""See models/training/architectures; all but `bilstm` can be served."""


class TrainConfig(BaseModel):
    """How a network is trained and how its thresholds are calibrated."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    architecture: Architecture = "lstm"
    layers: int = Field(2, ge=1, le=8, description="layers on top of each other")
    hidden: int = Field(64, ge=1, le=1024, description="units a layer")
    memory: int = Field(64, ge=2, le=4096, description="readings that attention, window and transformer look back")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of units dropped between layers in training")

    chrono: int | None = Field(
        None, ge=3, le=1_000_000,
        description="readings that gates keep what they hold at the start, at most (Tallec & Ollivier 2018); without "
        "it each network's own start",
    )  # fmt: skip

    beta: float = Field(
        0.0, ge=0, le=1,
        description="an error counts times the forecast's own scale to twice this power, in training only (Seitzer et "
        "al. 2022): with 0 rare large moves hardly teach, with 0.5 all channels and moments teach alike",
    )  # fmt: skip

    window: int = Field(64, ge=2, le=4096, description="readings through which errors are propagated back")
    lanes: int = Field(64, ge=1, le=4096, description="most pieces of recordings trained side by side")
    epochs: int = Field(60, ge=1, le=10_000, description="most passes over the recordings")
    patience: int = Field(10, ge=1, description="epochs without a better held-out loss before training stops")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="of AdamW at the start; falls to a tenth as a cosine")
    weight_decay: float = Field(1e-3, ge=0, le=1, description="of AdamW")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    time_limit_s: float | None = Field(None, gt=0, description="training ends after the epoch in which this is reached")
    checkpoint_every_s: float = Field(60.0, gt=0, description="a checkpoint is written so often within an epoch, too")

    held_out: float = Field(0.25, ge=0.05, le=0.5, description="share of every recording, its end, not trained on")
    false_alarm_rate: float = Field(0.001, gt=0, le=0.5, description="share of normal readings judged anomalous")
    seed: int = Field(0, ge=0, lt=2**63, description="the same seed and recordings give the same network")
