"""gatewatch serve on a machine whose clock is set: `python -m tests.support.stepped FILE serve ...`.

The file holds how far the clock is from the right time, a float64 in seconds. It is looked at whenever somebody asks
for the time. Monotonic time goes on, as it does on such a machine.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

OFFSET = struct.Struct("<d")


def set_clock(file: Path, seconds: float) -> None:
    """Have the processes that look at a file be so far from the right time."""
    with file.open("r+b" if file.exists() else "wb") as opened:
        opened.write(OFFSET.pack(seconds))


def main() -> None:
    """Step the clock of this process, and be the command."""
    file, *arguments = sys.argv[1:]
    with Path(file).open("rb") as opened:
        offset = mmap.mmap(opened.fileno(), OFFSET.size, access=mmap.ACCESS_READ)
    right = time.time
    time.time = lambda: right() + OFFSET.unpack_from(offset)[0]
    sys.argv[1:] = arguments
    from gatewatch.service.cli import main as command

    command()


if __name__ == "__main__":
    main()
