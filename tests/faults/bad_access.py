"""What comes back for bad input about keys, tenants, certificates and stores; and that neighbours are none the worse.

    python -m tests.faults.bad_access [--names 1000]

Services in processes of their own, over a Redis or a Cluster of their own. Each line of the table is what was done, and
what came back; a line whose outcome is not the one that is expected ends the run. A Redis on a full disk needs root,
for a file system of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import httpx2

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from gatewatch.service.access.scopes import SCOPES
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.access import add_to_file, add_to_redis, bearer, revoke
from tests.support.balanced import await_ready
from tests.support.certificates import make_certificate
from tests.support.ports import free_port
from tests.support.redis_servers import Servers, redis_cluster
from tests.support.replicas import SERVE, Replica
from tests.support.samples import make_artefact, readings
from tests.support.waiting import until

Line = tuple[str, str]
SCORED = {"warming_up", "normal", "anomalous"}
DISK = 24 * 2**20


class Service:
    """A service over a store, open to everybody where nothing else is said."""

    def __init__(self, model: Path, url: str, **settings: object) -> None:
        given = {"MODEL": model, "REDIS_URL": url, "LOG_LEVEL": "error", "STORE_TIMEOUT_MS": 2000, **settings}
        self.replica = Replica({f"GATEWATCH_{name}": str(value) for name, value in given.items()})
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.replica.port}", timeout=60)

    def __enter__(self) -> Service:
        await_ready(self.replica.port)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.replica.end()

    def post(self, sent: object, key: str | None = None) -> httpx2.Response:
        """Post readings."""
        return self.client.post("/v1/readings", json=sent, headers=bearer(key) if key else {})

    def series(self, name: str, key: str | None = None) -> str:
        """The value of a series."""
        text = self.client.get("/metrics", headers=bearer(key) if key else {}).text
        return text.partition(f"\n{name} ")[2].partition("\n")[0]


def scored(reply: httpx2.Response) -> bool:
    """Whether all readings of a request were."""
    return reply.status_code == 200 and {one["status"] for one in reply.json()} <= SCORED


def keys(model: Path, folder: Path, names: int) -> Iterator[Line]:
    """Keys that are not good for what is asked, and hostile names."""
    file = folder / "keys.json"
    with start_private_redis(folder / "keys") as private:
        own = {scope: add_to_file(file, "ours", scope) for scope in SCOPES}
        theirs = add_to_file(file, "theirs", "admin")
        expired = add_to_file(file, "ours", "admin", expires=time.time() - 1)
        brief = add_to_redis(private.url, "ours", "ingest")
        with Service(model, private.url, OPEN="never", KEYS_FILE=file) as service:
            assert scored(service.post(readings("pump-1", 20), own["ingest"]))
            both = [service.client.get(f"/v1/streams/{name}", headers=bearer(theirs)) for name in ("pump-1", "pump-2")]
            texts = [reply.text.replace("pump-1", "pump-2") for reply in both]
            assert texts[0] == texts[1]
            yield "a key of another tenant asks for a stream", f"{both[0].status_code}, as for a stream of nobody"
            yield "an expired key", str(one_of(service.post([], expired).status_code, 401))
            until(lambda: service.post([], brief).status_code == 200)
            revoke(private.url, brief)
            took = until(lambda: service.post([], brief).status_code == 401)
            assert took < 5
            yield "a key that was revoked", f"401 after {took:.1f} s, in the one process there is"
            reply = service.post([], own["read"])
            yield "a key of another scope", f"{one_of(reply.status_code, 403)}: {reply.json()['detail']}"
            reply = service.post([], "x" * 2**20)
            yield "a key of a megabyte", f"{one_of(reply.status_code, 431)}: {reply.json()['detail']}"
            for scope in (*SCOPES, None):
                yield hostile_names(service, scope, own[scope] if scope else "", names)
            known = service.client.get("/v1/streams/pump-1", headers=bearer(own["read"])).json()
            assert known["readings"] == 20, known
            assert scored(service.post(readings("pump-1", 1, start=20), own["ingest"]))
            yield "the stream of before, after all of it", "20 readings; the next one is scored"


def one_of(found: int, *expected: int) -> int:
    """A status that is one of those expected."""
    assert found in expected, found
    return found


def hostile_names(service: Service, scope: str | None, key: str, count: int) -> Line:
    """Names made of what means something to somebody, in paths and in readings; nobody gets beyond his scope."""
    rng, found = random.Random(f"{scope}"), Counter[int]()
    pieces = ["..", "%2e", "%2f", "/", "%00", "%0d%0a", "*", "?", "#", "{", "}", ":", "pump-1", "%ff", "'",
              "%f0%9f%92%a9", "\\", "%", "%20", "%e2%80%ae", "state", "a" * 300, "%c0%ae", "&k="]  # fmt: skip
    ways = ("", "/history", "/state", "/policy", "/snapshots", "/forecast", "/channels", "/reset", "/readings")
    headers = {"content-type": "application/json", **(bearer(key) if key else {})}
    connection = HTTPConnection("127.0.0.1", service.replica.port, timeout=60)
    for _ in range(count):
        name = "".join(rng.choices(pieces, k=rng.randint(1, 4)))
        method, way = rng.choice(("GET", "PUT", "DELETE", "POST")), rng.choice(ways)
        if method in ("PUT", "DELETE") and scope in ("operate", "admin") and "pump-1" in name:
            continue  # who may, may
        if rng.random() < 0.2:
            reply = service.post([{"stream": name, "values": {"pressure": 1.0, "flow": 1.0}}], key)
            status, text = reply.status_code, reply.content
        else:
            connection.request(method, f"/v1/streams/{name}{way}", "{}", headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
        found[status] += 1
        assert status < 500, (name, method, way, text)
        assert scope not in (None, "metrics") or status in (400, 401, 403, 404), (name, method, way, status)
    return f"hostile names, scope {scope}", ", ".join(f"{status}: {count}" for status, count in sorted(found.items()))


def tenants(model: Path, folder: Path) -> Iterator[Line]:
    """A tenant at its limit beside one that is not."""
    file = folder / "tenants.json"
    full, free = (add_to_file(file, tenant, "ingest") for tenant in ("full", "free"))
    with (
        start_private_redis(folder / "tenants") as private,
        Service(
            model, private.url, OPEN="never", KEYS_FILE=file, TENANT_READINGS_PER_S=100, WAITING_MS=5000
        ) as service,
    ):
        answers: dict[str, Counter[int]] = {"full": Counter(), "free": Counter()}
        stopping = threading.Event()

        def flood() -> None:
            with httpx2.Client(base_url=service.client.base_url, headers=bearer(full)) as client:
                for at in range(10**6):
                    if stopping.is_set():
                        return
                    sent = readings("s", 50, start=50 * at)
                    answers["full"][client.post("/v1/readings", json=sent).status_code] += 1

        floods = [threading.Thread(target=flood) for _ in range(4)]
        for one in floods:
            one.start()
        for at in range(200):
            reply = service.post(readings("s", 1, start=at), free)
            answers["free"][reply.status_code] += 1
            time.sleep(0.02)
        stopping.set()
        for one in floods:
            one.join()
        assert answers["full"][429] > answers["full"][200] > 0
        assert set(answers["free"]) == {200}, answers
        yield "a tenant far over its limit", f"{dict(answers['full'])}; its neighbour meanwhile {dict(answers['free'])}"


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", free_port()), backlog=100) as server:
        yield server.getsockname()[1]


def providers(model: Path, folder: Path) -> Iterator[Line]:
    """Certificates and identity providers."""
    certificate, key = make_certificate(folder, "expired", days=-1)
    with start_private_redis(folder / "providers") as private:
        refused = run(model, private.url, TLS_CERT=certificate, TLS_KEY=key)
        yield "a service whose certificate has expired", refused
        yield from redis_with_an_expired_certificate(model, folder, certificate, key)
        file = folder / "providers.json"
        good = add_to_file(file, "default", "admin")
        with (
            silent_server() as port,
            Service(model, private.url, OIDC_ISSUER=f"http://127.0.0.1:{port}", KEYS_FILE=file) as service,
        ):
            token = "eyJhbGciOiJSUzI1NiIsImtpZCI6Im9uZSJ9.eyJpc3MiOiJ4In0.c2ln"
            took, answers, beside = list[float](), Counter[int](), list[float]()

            def ask() -> None:
                began = time.monotonic()
                reply = httpx2.get(f"{service.client.base_url}/v1/streams", headers=bearer(token), timeout=60)
                answers[reply.status_code] += 1
                took.append(time.monotonic() - began)

            asking = [threading.Thread(target=ask) for _ in range(20)]
            for one in asking:
                one.start()
            while any(one.is_alive() for one in asking):
                began = time.monotonic()
                assert scored(service.post(readings("s", 1), good)) or len(beside)
                beside.append(time.monotonic() - began)
            assert set(answers) <= {401, 503}
            yield (
                "JWKS that never answers",
                (
                    f"20 tokens at once: {dict(answers)} after at most {max(took):.1f} s; "
                    f"{len(beside)} readings with a key meanwhile, at most {max(beside):.2f} s each"
                ),
            )


def run(model: Path, url: str, **settings: object) -> str:
    """What a service says that does not start, in its last line."""
    given = {f"GATEWATCH_{name}": str(value) for name, value in {"MODEL": model, "REDIS_URL": url, **settings}.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWATCH_")}
    command = [sys.executable, *SERVE, "--port", str(free_port())]
    try:
        done = subprocess.run(command, env=kept | given, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode().splitlines()
        warnings = [line for line in said if "certificate" in line]
        return f"serves; the log says {warnings[-1][:200] if warnings else 'nothing of it'}"
    assert done.returncode
    return f"does not start: {done.stderr.strip().splitlines()[-1]}"


def redis_with_an_expired_certificate(model: Path, folder: Path, certificate: Path, key: Path) -> Iterator[Line]:
    """It is not talked to."""
    port, home = free_port(), folder / "tls"
    home.mkdir()
    tls = {"port": 0, "tls-port": port, "tls-cert-file": certificate, "tls-key-file": key, "tls-auth-clients": "no"}
    options = [word for name, value in tls.items() for word in (f"--{name}", str(value))]
    with subprocess.Popen(["redis-server", *options, "--dir", str(home)], stdout=subprocess.DEVNULL) as redis:
        service = Service(model, f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
        try:
            service.replica.await_listening()
            until(lambda: service.client.get("/livez").status_code == 200)
            reply = service.post(readings("s", 1))
            yield "a Redis whose certificate has expired", f"{one_of(reply.status_code, 503)}: {reply.json()['detail']}"
        finally:
            service.__exit__()
            redis.terminate()


def stores(model: Path, folder: Path) -> Iterator[Line]:
    """A master that is lost, data of before, and a disk that is full."""
    (folder / "cluster").mkdir()
    with redis_cluster(folder / "cluster") as servers:
        yield lost_master(model, servers)
    yield old_data(model, folder)
    yield full_disk(model, folder)


def lost_master(model: Path, servers: Servers) -> Line:
    """Of a Cluster without replicas: its streams get 503, the others go on."""
    names = [f"s{at}" for at in range(60)]
    nodes = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in servers.running)
    with Service(model, nodes, STORE_TIMEOUT_MS=500) as service:
        for at in range(5):
            until(lambda at=at: scored(service.post([readings(name, 1, start=at)[0] for name in names])))  # type: ignore[misc]
        victim = next(iter(servers.running))
        servers.kill(victim)
        time.sleep(3)

        def each(start: int) -> dict[str, int]:
            return {name: service.post(readings(name, 1, start=start)).status_code for name in names}

        answers = each(5)
        counts = Counter(answers.values())
        assert set(counts) == {200, 503}
        again = each(5)
        assert again == answers
        servers.start(victim)
        back = until(lambda: set(each(5).values()) == {200})
        found = {service.client.get(f"/v1/streams/{name}").json()["readings"] for name in names}
        assert found == {6}, found
    return "a Cluster that loses a master without replica", (
        f"of 60 streams {dict(counts)}, twice the same; {back:.1f} s after its return all 200, 6 readings each"
    )


def old_data(model: Path, folder: Path) -> Line:
    """Redis comes back with what it had before; the service has had it in memory since."""
    home = folder / "old"
    home.mkdir()
    servers = Servers(home)
    port = free_port()
    try:
        servers.start(port, "--port", str(port), "--save", "", "--bind", "127.0.0.1")
        with Service(model, f"redis://127.0.0.1:{port}/0") as service:
            assert scored(service.post(readings("s", 30)))
            servers.client(port).save()
            assert scored(service.post(readings("s", 10, start=30)))
            servers.kill(port)
            servers.start(port)
            until(lambda: service.client.get("/readyz").status_code == 200)
            reply = service.post(readings("s", 5, start=40))
            known = service.client.get("/v1/streams/s").json()
            assert scored(reply)
            assert known["readings"] == 35, known
            again = service.post(readings("s", 10, start=30)).json()
            assert {one["status"] for one in again} == {"late"}
            reference = [*readings("r", 30), *readings("r", 5, start=40)]
            assert scored(service.post(reference))
            assert service.client.get("/v1/streams/r").json()["tag"] == known["tag"]
    finally:
        servers.stop()
    return "a node that answers with data of before", (
        "the stream goes on from what the node has: 30 + 5 of 45 readings, its tag that of these 35 alone; the ten "
        "that the node lost are `late` when they are sent again"
    )


def full_disk(model: Path, folder: Path) -> Line:
    """The file of Redis cannot grow."""
    home = folder / "full"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(home)], check=True)
    servers, port = Servers(home), free_port()
    try:
        servers.serve(port)
        with Service(model, f"redis://127.0.0.1:{port}/0") as service:
            assert scored(service.post(readings("s", 20)))
            sent = 20
            ballast = home / "ballast"
            ballast.write_bytes(b"")
            with ballast.open("wb") as file:
                try:
                    while True:
                        file.write(bytes(2**16))
                        file.flush()
                except OSError:
                    pass
            answers, acknowledged = Counter[int](), sent
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and answers[503] < 20:
                reply = service.post(readings("s", 1, start=acknowledged))
                answers[reply.status_code] += 1
                acknowledged += reply.status_code == 200
            assert answers[503] >= 20, answers
            ready = service.client.get("/readyz")
            live = service.client.get("/livez").status_code
            said = service.post(readings("s", 1, start=acknowledged)).json()["detail"]
            ballast.unlink()
            back = until(lambda: service.post(readings("s", 1, start=acknowledged)).status_code == 200)
            known = service.client.get("/v1/streams/s").json()["readings"]
            assert known == acknowledged + 1, (known, acknowledged)
            assert (ready.status_code, live) == (503, 200), (ready.text, live)
    finally:
        servers.stop()
        subprocess.run(["umount", str(home)], check=True)
    return "a full disk under Redis", (
        f"{dict(answers)}, `/readyz` {ready.status_code}, `/livez` {live}: {said}; {back:.1f} s after there was room "
        f"200 again, {known} readings of {acknowledged + 1} acknowledged"
    )


def signatures(model: Path, folder: Path) -> Iterator[Line]:
    """An artefact that nobody signed, where signatures are required."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from gatewatch.models.artefact.signatures import sign

    private_key = Ed25519PrivateKey.generate()
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    pem = folder / "signer.pem"
    pem.write_bytes(private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    trusted = folder / "trusted.pem"
    trusted.write_bytes(private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with start_private_redis(folder / "signatures") as private:
        yield "a service whose artefact is not signed", run(model, private.url, TRUSTED_KEYS=trusted)
        repository = Repository(str(folder / "models"), verify)
        signed = make_artefact(folder / "signed", seed=1)
        sign(signed, pem)
        repository.add("pumps", signed, "ann")
        repository.add("pumps", make_artefact(folder / "unsigned", seed=2), "ann")
        with Service(signed, private.url, TRUSTED_KEYS=trusted, MODELS=repository.url) as service:
            first = service.client.post("/v1/models/pumps/promote", json={"version": 1})
            second = service.client.post("/v1/models/pumps/promote", json={"version": 2})
            assert first.status_code == 200, first.text
            detail = f"{one_of(second.status_code, 422)}: {second.json()['detail'][:200]}"
            assert scored(service.post(readings("pump-1", 1)))
            yield "an unsigned version is promoted", f"{detail}; the next reading is scored"


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=1000, help="hostile names under each scope")
    parser.add_argument("--only", help="one of keys, tenants, providers, stores, signatures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatewatch-bad-") as scratch:
        folder = Path(scratch)
        model = make_artefact(folder / "artefact")
        parts: dict[str, Callable[[], Iterator[Line]]] = {
            "keys": lambda: keys(model, folder, options.names),
            "tenants": lambda: tenants(model, folder),
            "providers": lambda: providers(model, folder),
            "stores": lambda: stores(model, folder),
            "signatures": lambda: signatures(model, folder),
        }
        print("| what is done | what comes back |\n|---|---|")
        for name, part in parts.items():
            if options.only in (None, name):
                for what, came in part():
                    print(f"| {what} | {came.replace('|', '/')} |", flush=True)


if __name__ == "__main__":
    main()
