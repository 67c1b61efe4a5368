"""A device that posts its readings, and neither loses one nor has one counted twice.

    python examples/device_loop.py --url http://127.0.0.1:8000 --stream pump-11

Every reading gets a `seq`. Whatever happens to a request, the same readings are sent again under the same numbers: the
service applies each once and answers a repeat as it did the first time.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
import urllib.error
import urllib.request
from collections import deque
from itertools import islice
from typing import Any

AT_ONCE = 100
"""Most readings in a request; less than the history that the service answers repeats from (128)."""

AGAIN = (408, 429, 503)
"""Answers after which the same readings are sent again."""

KEPT = 10_000
"""Most readings that wait while the service is away; beyond that the oldest are given up."""


def measure(seq: int) -> dict[str, float]:
    """Read the sensor; here a pump that does not exist."""
    return {
        "pressure": 4 + 0.1 * math.sin(seq / 50) + random.gauss(0, 0.02),
        "flow": 120 + 5 * math.sin(seq / 50) + random.gauss(0, 0.5),
    }


def next_seq(url: str, stream: str) -> int:
    """The number of the next reading: one more than the last that the service has of this stream."""
    while True:
        try:
            with urllib.request.urlopen(f"{url}/v1/streams/{stream}", timeout=10) as reply:
                last = json.load(reply)["last_seq"]
                return 0 if last is None else int(last) + 1
        except urllib.error.HTTPError as error:
            if error.code == 404:  # nothing of this stream was ever applied
                return 0
            if error.code not in AGAIN:
                raise
        except OSError:  # the service is not there yet
            pass
        time.sleep(1.0)


def post(url: str, stream: str, readings: list[dict[str, Any]]) -> list[dict[str, Any]] | float:
    """Post readings; their results, or the seconds after which the same readings are to be sent again."""
    request = urllib.request.Request(
        f"{url}/v1/streams/{stream}/readings",
        json.dumps(readings).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            results: list[dict[str, Any]] = json.load(reply)
            return results
    except urllib.error.HTTPError as error:
        if error.code in AGAIN:
            return float(error.headers.get("retry-after", "1"))
        raise  # 4xx: the readings are wrong, and would be wrong again
    except OSError:  # refused, reset, too late: nobody knows whether they were applied
        return 1.0


def run(url: str, stream: str, count: int | None, interval_s: float) -> None:
    """Measure and post, `count` readings or for ever."""
    waiting: deque[dict[str, Any]] = deque(maxlen=KEPT)
    seq, again_at = next_seq(url, stream), 0.0
    end = math.inf if count is None else seq + count
    while seq < end or waiting:
        if seq < end:
            waiting.append({"seq": seq, "timestamp": time.time(), "values": measure(seq)})
            seq += 1
        if time.monotonic() >= again_at:
            sent = list(islice(waiting, AT_ONCE))
            results = post(url, stream, sent)
            if isinstance(results, float):
                again_at = time.monotonic() + results
            else:
                tell(results)
                for _ in sent:
                    waiting.popleft()
        time.sleep(interval_s)


def tell(results: list[dict[str, Any]]) -> None:
    """Print the results that somebody should see."""
    for result in results:
        if result["status"] not in ("warming_up", "normal"):
            print(f"{result['seq']}: {result['status']}, {result['error'] or result['reason']}", flush=True)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--url", default="http://127.0.0.1:8000")
    options.add_argument("--stream", default="pump-11")
    options.add_argument("--count", type=int, help="readings to post; for ever if not given")
    options.add_argument("--interval-s", type=float, default=1.0, help="seconds between readings")
    given = options.parse_args()
    run(given.url, given.stream, given.count, given.interval_s)
