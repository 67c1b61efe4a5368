"""One round: replicas, Redis, senders and hands that do harm; and what is left held against the contract."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import GatewatchError
from gatewatch.service.access.scopes import Scope
from gatewatch.service.errors import StoreUnavailable
from tests.faults import swaps
from tests.faults.chaos.schedule import Fault
from tests.faults.chaos.senders import REVOKED_WITHIN_S, Keys, Ledger, Sender, ask, send_mutants, try_revoked
from tests.faults.chaos.stores import HarmedStore, harmed_store
from tests.faults.concurrency import check
from tests.faults.load import FAULT_SHARE, Proxy
from tests.faults.slowloris import dribble
from tests.support import access
from tests.support.replicas import Replica
from tests.support.samples import make_artefact
from tests.support.stepped import set_clock

STEPS_S = (-86_400.0, -3600.0, -61.0, -1.0, 0.0, 1.0, 61.0, 3600.0, 86_400.0)
"""How far a machine's clock may be from the right time."""

VERSIONS = 3


class World:
    """What a round is made of."""

    def __init__(self, folder: Path, seed: int, number: int, replicas: int, streams: int, senders: int) -> None:
        self._folder = folder
        self._seed = f"{seed} {number}"
        self._replicas, self._streams, self._senders = replicas, streams, senders
        self.ledger = Ledger()
        self.performed: list[Fault] = []
        self.clocks: list[Path] = []
        self.replicas: list[Replica] = []

    async def run(self, kind: str, faults: list[Fault], seconds: float) -> Ledger:
        """Send while the faults happen, heal everything, and check; what is wrong is in the ledger."""
        artefacts = [make_artefact(self._folder / str(at), seed=at) for at in range(VERSIONS)]
        self.repository = Repository(str(self._folder / "models"), verify)
        for artefact in artefacts:
            self.repository.add("pumps", artefact, "chaos")
        self.repository.promote("pumps", "1", "chaos")
        plain = make_artefact(self._folder / "plain", seed=VERSIONS)
        (self._folder / "redis").mkdir()
        async with harmed_store(kind, self._folder / "redis", self.ledger, random.Random(self._seed)) as store:
            self.store = store
            self.keys = Keys(await self._new_key("ingest", "read"), await self._new_key("admin"))
            self.foreign = await self._new_key("ingest", "read", "operate", tenant="hostile")
            try:
                self._begin(store, plain)
                await self._under_load(faults, seconds)
                await self._check(plain, artefacts)
            finally:
                for replica in self.replicas:
                    replica.end(signal.SIGKILL)
        return self.ledger

    def _begin(self, store: HarmedStore, plain: Path) -> None:
        self.clocks = [self._folder / f"clock-{at}" for at in range(self._replicas)]
        settings = {
            "GATEWATCH_MODEL": str(plain),
            "GATEWATCH_MODELS": self.repository.url,
            "GATEWATCH_REDIS_URL": store.url,
            "GATEWATCH_STORE_REPLICAS": str(store.replicas),
            "GATEWATCH_HISTORY_READINGS": str(swaps.HISTORY),
            "GATEWATCH_OPEN": "never",
            "GATEWATCH_LOG_LEVEL": "error",
            "GATEWATCH_BODY_DEADLINE_S": "5",
        }
        self.replicas = []
        for clock in self.clocks:
            set_clock(clock, 0)
            command = ("-m", "tests.support.stepped", str(clock), "serve")
            self.replicas.append(Replica(settings, command, clock.with_suffix(".log")))

    def errors(self) -> list[str]:
        """What the replicas logged of their own mistakes, and what one logged last that ended by itself."""
        logs = [clock.with_suffix(".log").read_text().splitlines() for clock in self.clocks]
        mistakes = [line for log in logs for line in log if '"exception"' in line or "Traceback" in line][:5]
        ended = [log for log, replica in zip(logs, self.replicas, strict=False) if (replica.ended or 0) > 0]
        return mistakes + [line for log in ended for line in log[-3:]]

    async def _under_load(self, faults: list[Fault], seconds: float) -> None:
        stopping, ledger = asyncio.Event(), self.ledger
        ports = [replica.port for replica in self.replicas]
        rng = random.Random(f"{self._seed} proxies")
        proxies = [Proxy(port, ledger, rng, FAULT_SHARE) for port in ports]
        for proxy in proxies:
            await proxy.start()
        await self._ready()
        rules = {"rules": [{"pattern": "pump-*", "model": "pumps"}]}
        status, answer = await self._asked(ports[0], "PUT", "/v1/rules", rules)
        assert status == 200, answer
        names = [f"{kind}-{at}" for at in range(self._streams // 2) for kind in ("pump", "plain")]
        ways = [proxy.port for proxy in proxies]
        self.senders = [
            Sender(names[at :: self._senders], f"{self._seed} {at}", ways, self.keys, ledger)
            for at in range(self._senders)
        ]
        self._began = time.monotonic()
        sending = [asyncio.create_task(sender.run(stopping)) for sender in self.senders]
        hands = {fault.hand for fault in faults}
        harming = [self._work([fault for fault in faults if fault.hand == hand]) for hand in hands]
        await asyncio.gather(asyncio.sleep(seconds), *harming)
        for clock in self.clocks:
            set_clock(clock, 0)
        await self._ready()
        stopping.set()
        await asyncio.gather(*sending)
        for proxy in proxies:
            await proxy.stop()

    async def _ready(self, within_s: float = 90) -> None:
        """Wait until every replica is ready."""
        deadline = time.monotonic() + within_s
        for at, replica in enumerate(self.replicas):
            while (found := await ask(replica.port, self.ledger, self.keys.admin, "GET", "/readyz"))[0] != 200:
                if replica.ended is not None or time.monotonic() > deadline:
                    how = f", it ended with {replica.ended}" if replica.ended is not None else ""
                    self.ledger.blame(f"replica {at} is not ready {within_s:g} s after the last fault: {found}{how}")
                    break
                await asyncio.sleep(0.1)

    async def _work(self, faults: list[Fault]) -> None:
        """The faults of one hand, each at its time, or when the one before it is over."""
        hands: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "store": lambda fault: self.store.harm(fault.what, fault.pick),
            "replica": self._harm_replica,
            "model": self._swap,
            "key": self._rotate,
            "clock": self._step,
            "hostile": self._attack,
        }
        for fault in faults:
            await asyncio.sleep(max(0.0, self._began + fault.at_s - time.monotonic()))
            self.performed.append(fault._replace(at_s=time.monotonic() - self._began))
            self.ledger.faults[f"{fault.hand} {fault.what}"] += 1
            await hands[fault.hand](fault)

    async def _harm_replica(self, fault: Fault) -> None:
        replica = self._picked(fault)
        if fault.what == "stop":
            replica.tell(signal.SIGSTOP)
            await asyncio.sleep(4 * random.Random(fault.pick).random())
            replica.tell(signal.SIGCONT)
        elif fault.what == "renew":
            await asyncio.to_thread(replica.await_listening)  # nobody renews what has not begun
            replica.tell(signal.SIGHUP)
        else:
            await asyncio.to_thread(replica.end, signal.SIGKILL if fault.what == "kill" else signal.SIGTERM)
            replica.start()

    async def _swap(self, fault: Fault) -> None:
        """By a replica, or past all of them. One that is asked may be away, or its Redis."""
        number = 1 + int(fault.pick * 997) % VERSIONS
        if fault.what == "promote past the service":
            await asyncio.to_thread(self.repository.promote, "pumps", str(number), "chaos")
            return
        path, content = ("promote", {"version": number}) if fault.what == "promote" else ("rollback", {})
        port = self._picked(fault).port
        status, answer = await ask(port, self.ledger, self.keys.admin, "POST", f"/v1/models/pumps/{path}", content)
        if status not in (0, 200, 404, 503):  # 404: there was no other version yet
            self.ledger.blame(f"{path} is answered with {status}: {answer}")

    async def _rotate(self, _: Fault) -> None:
        """Give the senders another key, revoke the one before, and see that it is good for nothing."""
        before = self.keys.current
        self.keys.replace(await self._new_key("ingest", "read"))
        await self._patiently(lambda: access.revoke(self.store.own_url, before, self.store.replicas))
        self.keys.revoked.append((before, time.monotonic()))

    async def _step(self, fault: Fault) -> None:
        clock = self.clocks[int(fault.pick * self._replicas)]
        set_clock(clock, random.Random(fault.pick).choice(STEPS_S))

    async def _attack(self, fault: Fault) -> None:
        rng, port = random.Random(fault.pick), self._picked(fault).port
        if fault.what == "mutants":
            await send_mutants(port, self.foreign, self.ledger, rng, 40)
        elif fault.what == "dribble":
            flags = asyncio.Event(), asyncio.Event()
            flags[1].set()
            with contextlib.suppress(OSError):
                await dribble(port, 100, *flags, within_s=2)
        else:
            await try_revoked([replica.port for replica in self.replicas], self.keys, self.ledger)

    def _picked(self, fault: Fault) -> Replica:
        return self.replicas[int(fault.pick * self._replicas)]

    async def _new_key(self, *scopes: Scope, tenant: str = "default") -> str:
        made, url, least = list[str](), self.store.own_url, self.store.replicas
        await self._patiently(lambda: made.append(access.add_to_redis(url, tenant, *scopes, replicas=least)))
        return made[-1]

    async def _patiently(self, work: Callable[[], None], within_s: float = 90) -> None:
        """Do what needs the store, again and again while it is harmed; Sentinels that saw time jump rest for 30 s."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                await asyncio.to_thread(work)
                return
            except (StoreUnavailable, GatewatchError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def _known(self, port: int, path: str) -> Any:
        """What a replica says once the store has rested."""
        return (await self._asked(port, "GET", path))[1]

    async def _asked(self, port: int, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        """The answer of a replica, asked again as its 503 says: until then it is none."""
        deadline = time.monotonic() + 30
        while True:
            status, answer = await ask(port, self.ledger, self.keys.admin, method, path, content)
            if status == HTTPStatus.OK or time.monotonic() > deadline:
                return status, answer
            await asyncio.sleep(0.1)

    async def _check(self, plain: Path, artefacts: list[Path]) -> None:
        """Every stream has what was acknowledged, once and in order, with the scores and states of a replay."""
        if self.keys.revoked:
            await asyncio.sleep(self.keys.revoked[-1][1] + REVOKED_WITHIN_S - time.monotonic())
            await try_revoked([replica.port for replica in self.replicas], self.keys, self.ledger)
        ledger, port = self.ledger, self.replicas[0].port
        detector = TrainedDetector.load(plain)
        tables = {name: table for sender in self.senders for name, table in sender.tables.items()}
        for name, scores in ledger.scores.items():
            known = await self._known(port, f"/v1/streams/{name}")
            own = np.array([scores]) if name.startswith("plain") else None  # the others had several models
            ledger.wrong += check([name], tables[name][None, : len(scores)], own, [known], detector)
        twice = [place for place, times in ledger.applied.items() if times > 1]
        if twice:
            ledger.blame(f"answered more than once as applied just now: {twice[:5]}")
        detectors = {detector.name: detector for detector in map(TrainedDetector.load, artefacts)}
        pumps = [name for name, scores in ledger.scores.items() if name.startswith("pump") and scores]
        apart = await swaps.replayed_alike(self.store.own_url, pumps, detectors)
        for name, far in apart.items():
            if not far <= 1e-5:
                ledger.blame(f"{name}: its state is {far} from that of a replay of its history")
