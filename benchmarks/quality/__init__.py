"""Detection quality on labelled recordings: Gatewatch as a user would run it, beside peers on the same files.

    python -m benchmarks.quality DATA --eval EVAL --out OUT [--sets nab,smd] [--detectors gatewatch,persistence]
    python -m benchmarks.quality.choose SHIPPED CANDIDATE... --detector general
    python -m benchmarks.quality.plots OUT DATA

Needs the extra `bench`. `__main__.py` runs and prints, `detectors.py` is the table of detectors and their command
lines, `series.py` reads the sets, `injected.py` and `cycles.py` make two, `measures.py` computes figures and their
intervals, `report.py` lays them out, `choose.py` compares versions, `shape.py` tries one that is not built yet.
"""
