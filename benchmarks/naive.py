"""What people write first: a handler for each reading, GET, torch.nn.LSTM, SET. Not safe; here to be measured against.

uvicorn benchmarks.naive:app
"""

from __future__ import annotations

import io
import os
from typing import cast

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from redis.asyncio import Redis

CHANNELS, HIDDEN, LAYERS = 8, 64, 2

torch.set_num_threads(1)
network = torch.nn.LSTM(CHANNELS, HIDDEN, LAYERS)
head = torch.nn.Linear(HIDDEN, CHANNELS)
redis = Redis.from_url(os.environ["GATEWATCH_REDIS_URL"])
app = FastAPI()


class Reading(BaseModel):
    """One reading."""

    stream: str
    timestamp: float
    seq: int
    values: dict[str, float | None]


@app.post("/v1/readings")
async def post_reading(reading: Reading) -> dict[str, object]:
    """Load, step, save."""
    packed = await redis.get(f"naive:{reading.stream}")
    if packed:
        h, c, forecast = torch.load(io.BytesIO(cast(bytes, packed)), weights_only=True)
    else:
        h, c = torch.zeros(LAYERS, 1, HIDDEN), torch.zeros(LAYERS, 1, HIDDEN)
        forecast = torch.zeros(CHANNELS)
    x = torch.tensor([value or 0.0 for value in reading.values.values()])
    with torch.no_grad():
        score = float((x - forecast).abs().max())
        output, (h, c) = network(x.reshape(1, 1, CHANNELS), (h, c))
        forecast = head(output[0, 0])
    buffer = io.BytesIO()
    torch.save((h, c, forecast), buffer)
    await redis.set(f"naive:{reading.stream}", buffer.getvalue())
    return {"stream": reading.stream, "score": score}


@app.post("/echo")
async def echo(reading: Reading) -> Reading:
    """The ceiling of a FastAPI route: parse and send back."""
    return reading


@app.post("/echo-many")
async def echo_many(readings: list[Reading]) -> list[Reading]:
    """The same for a bulk of readings."""
    return readings
