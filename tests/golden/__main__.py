"""Compare with the golden file, or write it anew; see the package."""

from __future__ import annotations

import argparse
import sys

from tests.golden import FILE, differences, machine, replies, scans, write


def main() -> None:
    """Print what differs; exit status 1 if anything does."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden")
    parser.add_argument("--write", action="store_true", help="write the file anew")
    options = parser.parse_args()
    if options.write:
        print(f"{FILE}: {write()} entries, {machine()}")
        return
    lines = [*differences(scans(), "scan "), *differences(replies(), "reply ")]
    print("\n".join(lines) or "equal")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
