"""A loop that hands server metrics from Prometheus to Gatewatch: one stream a server, one channel a query.

    python examples/prometheus_loop.py --prometheus http://127.0.0.1:9090 --url http://127.0.0.1:8000 \
        --query node_load1 --query 'rate(node_cpu_seconds_total{mode="iowait",cpu="0"}[5m])'

Streams and channels are called as `gatewatch train --from-prometheus` calls them. The times asked for are multiples of
the interval: a loop that is started anew, or a second one beside it, sends readings that the service knows already.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections import defaultdict

from gatewatch.client import Client, Reading


def readings_at(prometheus: str, queries: list[str], at: float, label: str) -> list[Reading]:
    """One reading of each server that has a value of any query at this time."""
    servers: dict[str, dict[str, float | None]] = defaultdict(dict)
    for query in queries:
        asked = urllib.parse.urlencode({"query": query, "time": f"{at:.3f}"})
        with urllib.request.urlopen(f"{prometheus}/api/v1/query?{asked}", timeout=10) as reply:
            found = json.load(reply)["data"]["result"]
        for series in found:
            labels, value = series["metric"], float(series["value"][1])
            server = re.sub(r"[^\w.-]", "_", labels.get(label, "all"))  # names of streams have no colon
            servers[server][labels.get("__name__", query)] = value if math.isfinite(value) else None
    return [Reading.of(server, values, at) for server, values in servers.items()]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--prometheus", default="http://127.0.0.1:9090")
    options.add_argument("--url", default="http://127.0.0.1:8000", help="the Gatewatch service")
    options.add_argument("--key", help="a key of the service with the scope ingest")
    options.add_argument("--query", action="append", required=True, help="PromQL; may be repeated")
    options.add_argument("--label", default="instance", help="that names the server")
    options.add_argument("--every-s", type=float, default=60.0)
    options.add_argument("--once", action="store_true", help="one reading of each server, then end")
    given = options.parse_args()
    with Client(given.url, key=given.key, numbered=False) as gatewatch:
        while True:
            at = time.time() // given.every_s * given.every_s
            try:
                gatewatch.send_many(readings_at(given.prometheus, given.query, at, given.label))
            except OSError as error:
                print(f"{given.prometheus} does not answer: {error}")
            if given.once:
                break
            time.sleep(max(0.0, at + given.every_s - time.time()))


if __name__ == "__main__":
    main()
