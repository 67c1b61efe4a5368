"""Ways to load and save the states of 1,000 streams at once: what a stream costs Redis and the client.

    python -m benchmarks.saving [--seconds 2.5]

`present` is what a large batch does: WATCH, MGET, then one transaction of a SETRANGE for each history and one MSET.
`in a script` writes the histories by a script in that transaction instead; `compared` reads no records and compares the
fences in a script; `scripted` compares and writes in one script. Records of 1,310 bytes, slots of 154.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from redis import Redis

from benchmarks.load import cpu_s
from gatewatch.service.core.records import FENCE
from gatewatch.service.storage.encoder import packed
from gatewatch.service.storage.private_redis import start_private_redis

STREAMS, RECORD_BYTES, SLOT_BYTES = 1000, 1310, 154

SET_SLOTS = """
for i = 1, #KEYS do redis.call('SETRANGE', KEYS[i], ARGV[2 * i - 1], ARGV[2 * i]) end"""

COMPARE = """
local lost = {}
for i = 1, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 4, 32) ~= ARGV[i] then lost[#lost + 1] = i end
end
return lost"""

SAVE = """
local n, set = #KEYS / 2, {}
for i = 1, n do
  if redis.call('GETRANGE', KEYS[i], 4, 32) ~= ARGV[i] then return i end
end
for i = 1, n do
  set[2 * i - 1], set[2 * i] = KEYS[i], ARGV[n + i]
  redis.call('SETRANGE', KEYS[n + i], ARGV[2 * n + 2 * i - 1], ARGV[2 * n + 2 * i])
end
redis.call('MSET', unpack(set))
return 0"""


def ways(redis: Redis) -> dict[str, Callable[[], object]]:
    """Name to what is to be measured."""
    keys = [b"gatewatch:{ZGVmYXVsdA.czUwMC0wLT%04d}:state" % n for n in range(STREAMS)]
    histories = [key.replace(b":state", b":history") for key in keys]
    records = [os.urandom(RECORD_BYTES) for _ in keys]
    fences = [record[FENCE] for record in records]
    offsets = [b"%d" % (SLOT_BYTES * (n % 128)) for n in range(STREAMS)]
    placed = [piece for offset in offsets for piece in (offset, bytes(SLOT_BYTES))]
    set_records = [b"MSET", *(piece for pair in zip(keys, records, strict=True) for piece in pair)]
    slots, compare, save = (str(redis.script_load(text)).encode() for text in (SET_SLOTS, COMPARE, SAVE))
    count = b"%d" % STREAMS
    set_slots = [[b"SETRANGE", *place] for place in zip(histories, offsets, placed[1::2], strict=True)]
    slots_script = [b"EVALSHA", slots, count, *histories, *placed]
    compared = [b"EVALSHA", compare, count, *keys, *fences]
    scripted = [b"EVALSHA", save, b"%d" % (2 * STREAMS), *keys, *histories, *fences, *records, *placed]
    watch, read = [[b"UNWATCH"], [b"WATCH", *keys]], [b"MGET", *keys]
    transaction = [[b"MULTI"], *set_slots, set_records, [b"EXEC"]]
    half_scripted = [[b"MULTI"], slots_script, set_records, [b"EXEC"]]
    connection = redis.connection_pool.make_connection()
    connection.connect()

    def send(*commands: Sequence[bytes]) -> None:
        connection.send_packed_command([packed(command) for command in commands])
        for _ in commands:
            connection.read_response()

    send(set_records)
    for history in histories:
        redis.setrange(history, SLOT_BYTES * 127, bytes(SLOT_BYTES))
    return {
        "present": lambda: (send(*watch, read), send(*transaction)),  # type: ignore[func-returns-value]
        "in a script": lambda: (send(*watch, read), send(*half_scripted)),  # type: ignore[func-returns-value]
        "compared": lambda: (send(*watch, compared), send(*transaction)),  # type: ignore[func-returns-value]
        "scripted": lambda: send(scripted),
        "of it: WATCH": lambda: send(*watch),
        "of it: MGET": lambda: send(read),
        "of it: histories": lambda: send(*set_slots),
        "of it: MSET": lambda: send(set_records),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each way")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        start_private_redis(Path(scratch) / "redis") as private,
        Redis.from_url(private.url) as redis,
    ):
        redis_pid = int(redis.info("server")["process_id"])
        print("µs a stream: Redis, client")
        for name, work in ways(redis).items():
            work()
            done, began = 0, time.perf_counter()
            before = cpu_s(redis_pid), time.process_time()
            while time.perf_counter() - began < options.seconds:
                work()
                done += STREAMS
            spent = cpu_s(redis_pid) - before[0], time.process_time() - before[1]
            print(f"{name:17s} {spent[0] / done * 1e6:6.1f} {spent[1] / done * 1e6:6.1f}", flush=True)


if __name__ == "__main__":
    main()
