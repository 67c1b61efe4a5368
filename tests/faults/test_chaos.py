"""Every fault at once, in short; `make chaos` is the long form."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from tests.faults.chaos.schedule import HANDS, OF_STORE, STORES, faults_of, store_of_round
from tests.faults.chaos.world import World
from tests.support.ports import BUS, free_ports

SECONDS = 8.0


def test_the_contract_holds_through_every_fault_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, seed=25, number=0, replicas=2, streams=8, senders=2)
    ledger = asyncio.run(world.run("single", faults_of(25, 0, SECONDS, "single"), SECONDS))
    assert ledger.wrong == []
    assert ledger.acknowledged > 100  # a round in which nothing got through proves nothing
    assert {fault.hand for fault in world.performed} == {"store", *HANDS}
    assert ledger.faults["cut"] + ledger.faults["drop"] > 0
    assert ledger.answers["revoked key 401"] > 0


def test_a_seed_gives_the_same_faults_again_and_each_kind_of_redis_and_fault_comes() -> None:
    for store in STORES:
        assert faults_of(7, 2, 40, store) == faults_of(7, 2, 40, store) != faults_of(8, 2, 40, store)
        performed = {(fault.hand, fault.what) for seed in range(20) for fault in faults_of(seed, 0, 40, store)}
        kinds = {"store": OF_STORE[store], **{hand: kinds for hand, (kinds, _, _) in HANDS.items()}}
        assert performed == {(hand, what) for hand, whats in kinds.items() for what in whats}
    assert {store_of_round(7, number) for number in range(3)} == set(STORES)


def test_no_outgoing_connection_gets_the_port_of_a_server_that_is_down() -> None:
    """Two rounds of an hour ended before they began: a port that the system had chosen was taken meanwhile."""
    ports = free_ports(50)
    assert len(set(ports)) == 50
    with socket.create_server(("127.0.0.1", 0)) as server:
        outgoing = [socket.create_connection(server.getsockname()) for _ in range(50)]
        given = [connection.getsockname()[1] for connection in outgoing]
        for connection in outgoing:
            connection.close()
    assert max(ports) + BUS < min(given)
