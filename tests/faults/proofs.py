"""Proofs, verified in another environment; and what becomes of them where a byte or a number is not what it was.

    python -m tests.faults.proofs --python /tmp/other/bin/python --flips 200

Incidents of many kinds are made by a service in this process: shipped models and one of the tests', channels that join,
policies, late readings, a held budget. Each is proved, and verified here and by `--python`, in the environment of other
versions of numpy and ONNX Runtime, with other vector instructions and kernels of linear algebra: equal to the bit, or
within contract 2. Then single bits are flipped, anywhere, and numbers of verdicts, readings and incidents changed and
sealed anew: each must be found. The state is the service's word: a bit of it that is sealed anew need not count.
"""

from __future__ import annotations

import argparse
import base64
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import load_artefact, model_folder
from gatewatch.models.errors import GatewatchError
from gatewatch.service.app import create_app
from gatewatch.service.demo.station import RECORDINGS_START_MS, simulate
from gatewatch.service.proofs import file
from gatewatch.service.proofs.verifying import verify
from gatewatch.service.settings import Settings
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.samples import make_artefact, post, readings

CALM, FAULT = 250, 12
OTHER_MACHINES: Final[tuple[dict[str, str], ...]] = (
    {},
    {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"},
    {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"},
    {"OPENBLAS_CORETYPE": "Nehalem"},
)
"""Variables with which numpy takes the paths that it would on another processor."""

OF_VERDICT: Final = ("score", "status", "reason", "alert", "open", "mid", "half", "attribution", "tag")
OF_READING: Final = ("values", "timestamp_ms", "seq", "n")
OF_INCIDENT: Final = (
    "n",
    "start_ms",
    "last_ms",
    "anomalous",
    "judged",
    "peak_ms",
    "peak_score",
    "last_score",
    "reason",
)


def station(stream: str, seed: int, channels: int, fault: dict[str, float]) -> list[dict[str, Any]]:
    """The simulated pump station's readings of its first channels, with some values added for FAULT readings."""
    recording = simulate(RECORDINGS_START_MS, CALM + FAULT + 40, seed)[0]
    sent = []
    for row, (moment, values) in enumerate(zip(recording.timestamps_ms.tolist(), recording.values, strict=True)):
        own = {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(recording.channels[:channels], values[:channels], strict=True)
        }
        if CALM <= row < CALM + FAULT:
            own = {name: value and value + fault.get(name, 0.0) for name, value in own.items()}
        sent.append({"stream": stream, "seq": row, "timestamp": moment / 1000, "values": own})
    return sent


def tiny(stream: str, pressure: float = 900.0) -> list[dict[str, Any]]:
    """Readings that the model of the tests finds strange for a while."""
    sent = readings(stream, CALM + FAULT + 40, seed=hash(stream) % 1000)
    for one in sent[CALM : CALM + FAULT]:
        one["values"] = {**one["values"], "pressure": pressure}
    return sent


def incidents(client: TestClient, trained: bool) -> list[str]:
    """Have incidents of many kinds; the streams that have one."""
    made: list[list[dict[str, Any]]] = []
    policies = {
        "keen": {"sensitivity": 2.0},
        "partly": {"ignore": ["flow"]},
        "ruled": {"gates": [{"channel": "pressure", "direction": "above"}], "minimum": {"readings": 3}},
        "budgeted": {"alerts_per_week": 2.0, "hold_budget": True},
        "held": {"hold": True},
    }
    client.put("/v1/policies", json={"streams": policies}).raise_for_status()
    for at, stream in enumerate(("plain", *policies)):
        made.append(tiny(stream) if trained else station(stream, at, 3, {"pressure": 3.0, "flow": 80.0}))
    late = tiny("late") if trained else station("late", 9, 2, {"pressure": 4.0})
    client.put("/v1/streams/late", json={"reorder_window_s": 3600}).raise_for_status()
    made.append([*late[:CALM], *late[CALM + 1 : CALM + 4], late[CALM], *late[CALM + 4 :]])
    if not trained:
        joined = station("joined", 11, 5, {"pressure": 4.0})
        for one in joined[:100]:
            one["values"].pop("current")
        made.append(joined)
    for sent in made:
        for start in range(0, len(sent), 7):
            post(client, sent[start : start + 7])
    return [sent[0]["stream"] for sent in made]


def prove(folder: Path) -> Iterator[Path]:
    """Proofs of incidents of the general model, the pump station's, and one of the tests', carried by its file."""
    own = make_artefact(folder / "model", event_threshold=4.0)
    for what, model, carried in (
        ("general", "general", None),
        ("demo", "demo", None),
        ("demo-carried", "demo", model_folder("demo")),
        ("own", str(own), own),
    ):
        with start_private_redis(folder / f"redis-{what}") as private:
            given = Settings(redis_url=private.url, model=model, log_level="critical", incident_days=1e5)
            with TestClient(create_app(given)) as client:
                if what.startswith("demo"):
                    faults = {"pressure": 2.0, "flow": 60.0}
                    for start in range(0, CALM + FAULT + 40, 50):
                        post(client, station("pump-1", 3, 5, faults)[start : start + 50])
                    streams = ["pump-1"]
                else:
                    streams = incidents(client, what == "own")
                for stream in streams:
                    listed = client.get("/v1/incidents", params={"stream": stream}).json()["incidents"]
                    assert listed, f"{what}: {stream} has no incident"
                    for one in listed:
                        answer = client.get(f"/v1/incidents/{one['id']}/proof")
                        assert answer.status_code == 200, answer.text
                        path = folder / f"{what}-{one['id']}"
                        file.write(path, answer.json(), carried)
                        yield path


def verified_by(python: str, path: Path, variables: dict[str, str]) -> tuple[int, str]:
    """What another environment's `gatewatch verify` says, and its exit status."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS")}
    command = [python, "-m", "gatewatch", "verify", str(path)]
    done = subprocess.run(command, env=kept | variables, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def is_found(path: Path) -> str:
    """What verifying here comes to: `damaged` or `differs`; `EQUAL` where nothing is found."""
    try:
        read = file.read(path)
        artefact = read.artefact or load_artefact(model_folder("general" if "general" in path.name else "demo"))
        verdict = verify(read, artefact)
    except GatewatchError:
        return "damaged"
    return "differs" if verdict.difference is not None else "EQUAL"


def line_of(content: bytes, at: int) -> int:
    """The number of the line that a byte is in; a line's end belongs to it."""
    return content.count(b"\n", 0, at) + 1


def flip(proofs: list[Path], flips: int, rng: random.Random, copy: Path) -> tuple[Counter[str], list[str]]:
    """Flip single bits: what is said of each, and what must not be."""
    said, wrong = Counter[str](), []
    for _ in range(flips):
        path = rng.choice(proofs)
        content = bytearray(path.read_bytes())
        at, bit = rng.randrange(len(content)), rng.randrange(8)
        content[at] ^= 1 << bit
        copy.write_bytes(content)
        try:
            file.read(copy)
            wrong.append(f"{path.name}: byte {at}, bit {bit} is not found")
            continue
        except GatewatchError as error:
            text = str(error)
        last = line_of(path.read_bytes(), len(content)) - 1
        line = line_of(path.read_bytes(), at)
        named = f"line {line} (" in text or (line >= last - 1 and ("seal" in text or "put in" in text))
        named |= path.read_bytes()[at : at + 1] == b"\n" or content[at] == 10  # two lines, or one more
        said["named the line" if named else "found, another line named"] += 1
        if not named:
            wrong.append(f"{path.name}: byte {at} of line {line}, said: {text}")
    return said, wrong


def changed(value: Any, rng: random.Random) -> Any:
    """Another value of the same kind, a part in 1,000 away where it is a number."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1))
    if isinstance(value, float):
        return value * rng.choice((0.999, 1.001)) if value else 0.001
    if isinstance(value, str) and len(value) == 32:
        return value[::-1]
    if isinstance(value, str):
        return {"normal": "anomalous", "anomalous": "normal", "warming_up": "normal", "event": "level"}.get(
            value, "event"
        )
    return None


def reseal(path: Path, rng: random.Random, copy: Path) -> str | None:
    """Change one number and seal the file anew; what was changed, None where there is nothing."""
    read = file.read(path)
    proof, state, lines = read.proof, read.state, read.readings
    kind = rng.choice(("verdict", "reading", "incident", "state"))
    if kind in ("verdict", "reading"):
        of = rng.choice(lines)
        name = rng.choice(OF_VERDICT if kind == "verdict" else OF_READING)
        if isinstance(of[name], list):
            at = rng.randrange(len(of[name]))
            if of[name][at] is None:
                return None
            of[name][at] = changed(of[name][at], rng)
        else:
            of[name] = changed(of[name], rng)
        what = f"{kind} {name}"
    elif kind == "incident":
        name = rng.choice(OF_INCIDENT)
        if proof["incident"].get("ruled") and name not in ("n", "start_ms"):
            return None  # what the rules said is not proved
        if not any(one["n"] >= proof["incident"]["n"] + proof["incident"]["judged"] - 1 for one in lines):
            return None
        if any(one["corrected"] for one in lines) and name not in ("n", "start_ms"):
            return None
        proof["incident"][name] = changed(proof["incident"][name], rng)
        what = f"incident {name}"
    else:
        record = bytearray(base64.b64decode(state["record"]))
        at = rng.randrange(len(record))
        record[at] ^= 1 << rng.randrange(8)
        state["record"] = base64.b64encode(bytes(record)).decode()
        what = "state"
    file.write(copy, {"proof": proof, "state": state, "readings": lines}, _carried(path))
    return what


def _carried(path: Path) -> Path | None:
    """The folder of the model that a proof carries."""
    if path.name.startswith("own-"):
        return path.parent / "model"
    return model_folder("demo") if path.name.startswith("demo-carried") else None


def main() -> None:
    """Print what each came to; fail where something is not found, or not equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="of an environment with other versions")
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, wrong = random.Random(given.seed), list[str]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        proofs = list(prove(folder))
        print(f"{len(proofs)} proofs, {sum(p.stat().st_size for p in proofs):,} bytes")
        for variables in OTHER_MACHINES:
            said, largest, elsewhere = Counter[str](), 0.0, set[str]()
            for path in proofs:
                status, text = verified_by(given.python, path, variables)
                verdict = next((word for word in ("EQUAL to the bit", "EQUAL within", "DIFFERS") if word in text), text)
                said[verdict] += 1
                elsewhere |= {part.partition(",")[0] for part in text.split("computed with ")[1:]}
                if "EQUAL within" in text:
                    largest = max(largest, float(text.partition("within ")[2].partition("within ")[2].split(" ")[0]))
                if status or "EQUAL" not in text:
                    wrong.append(f"{path.name} with {variables}: {status} {text}")
            more = f", at most {largest:.2g} of 1e-5" if largest else ""
            print(f"{variables or 'as it is'}: {dict(said)}{more}; made with {sorted(elsewhere)}")
        said, bad = flip(proofs, given.flips, rng, folder / "flipped")
        wrong += bad
        print(f"{given.flips} bits flipped: {dict(said)}")
        for path in rng.sample(proofs, min(8, len(proofs))):
            content = bytearray(path.read_bytes())
            content[rng.randrange(len(content) - 1)] ^= 1
            (folder / "flipped").write_bytes(content)
            status, text = verified_by(given.python, folder / "flipped", {})
            if status != 2:
                wrong.append(f"{path.name}, flipped, by the command: {status} {text}")
        found: dict[str, Counter[str]] = {}
        for _ in range(given.flips):
            path = rng.choice(proofs)
            copy = folder / f"{path.name}.resealed"
            what = reseal(path, rng, copy)
            if what is not None:
                outcome = is_found(copy)
                found.setdefault(what, Counter())[outcome] += 1
                if outcome == "EQUAL" and what != "state":
                    wrong.append(f"{path.name}: {what} changed and sealed anew is not found")
        for kind, outcomes in sorted(found.items()):
            print(f"sealed anew: {kind}: {dict(outcomes)}")
    print(f"wrong: {len(wrong)}", *wrong[:40], sep="\n  ")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
