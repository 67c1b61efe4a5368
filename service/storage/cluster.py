"""Cluster: the nodes of a Redis Cluster, and what is sent to several of them at once.

redis-py finds the nodes and says which has a slot; our own connections carry the commands. A node that does not answer
is left alone for a moment, and so costs the streams of other nodes nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.asyncio.cluster import ClusterNode, NodesManager
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, RedisError, TryAgainError

from gatewatch.service.storage.addresses import Address, connecting
from gatewatch.service.storage.errors import Within
from gatewatch.service.storage.keys import tag_of
from gatewatch.service.storage.node import Node

log = structlog.get_logger(__name__)

LEFT_ALONE_S: Final = 0.5
"""After a node did not answer, it is not asked for so long: each try may cost a batch the whole time-out."""

LOOK_AGAIN_S: Final = 0.2
"""Between two looks for which node has which slot, while one is in trouble."""

MOVING_S: Final = 0.02
"""Before a command is sent again whose slot is being moved: its keys are on two nodes until that is done."""


class ClusterMember(Node):
    """A node, and whether it is left alone.

    Attributes:
        name: host and port.
        until: when it may be asked again, in the loop's time.
        trouble: why it is left alone.
    """

    def __init__(self, found: ClusterNode, timeout_s: float) -> None:
        super().__init__(lambda: found.connection_class(**found.connection_kwargs), timeout_s)
        self.name = str(found.name)
        self.until = 0.0
        self.trouble: Exception | None = None


@dataclass(frozen=True)
class Part:
    """Commands for keys with one hash tag, packed, and how many they are."""

    key: bytes
    commands: bytes
    count: int


class Cluster:
    """Finds nodes and exchanges commands with them."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        options = connecting(timeout_s) | address.options | {"socket_timeout": timeout_s}
        self._timeout_s = timeout_s
        self._finder = NodesManager(
            [ClusterNode(host, port, **options) for host, port in address.hosts], False, dict(options)
        )
        self._members: dict[str, ClusterMember] = {}
        self._slots: dict[int, ClusterMember] = {}
        self._slot_of: dict[bytes, int] = {}
        self._finding: asyncio.Task[None] | None = None
        self._found_at = 0.0

    @property
    def heard(self) -> int:
        """How often any node has sent something."""
        return sum(member.heard for member in self._members.values())

    async def member_of(self, key: bytes) -> ClusterMember:
        """The node that has a key's slot. Raises ClusterDownError if none has, or what redis-py raises."""
        if not self._slots:
            await self.find()
        tag = tag_of(key)
        slot = self._slot_of.get(tag)
        if slot is None:
            slot = self._slot_of[tag] = key_slot(key)
        if slot not in self._slots:
            self._find_soon()
            raise ClusterDownError("Hash slot not served", status_code="CLUSTERDOWN")
        return self._slots[slot]

    async def find(self) -> None:
        """Ask which node has which slot; whoever asks meanwhile waits for the same."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._find(), name="find nodes")
            self._finding.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._finding)

    async def _find(self) -> None:
        await self._finder.initialize()
        self._found_at = asyncio.get_running_loop().time()
        members = {
            str(found.name): self._members.get(str(found.name)) or ClusterMember(found, self._timeout_s)
            for found in self._finder.nodes_cache.values()
        }
        gone = [member for name, member in self._members.items() if name not in members]
        self._members = members
        self._slots = {slot: members[str(of[0].name)] for slot, of in self._finder.slots_cache.items() if of}
        for member in gone:
            await member.drop_idle()

    def _find_soon(self) -> None:
        """Look again in the background, but not all the time."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._found_at >= LOOK_AGAIN_S and (self._finding is None or self._finding.done()):
            self._found_at = loop.time()
            self._finding = asyncio.create_task(self._find(), name="find nodes")
            self._finding.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def masters(self) -> list[ClusterMember]:
        """The nodes that have slots."""
        if not self._slots:
            await self.find()
        return list(dict.fromkeys(self._slots.values()))

    async def exchange(
        self, parts: Sequence[Part], twice: bool = True, after: bytes = b""
    ) -> list[list[Any] | Exception]:
        """Send parts to their nodes, all at once, and wait for the replies to each, or for why there are none.

        What a node refuses because it does not have the slot, has only a part of it, or does not know a script, was not
        done, and is sent again: once, and then until the time-out.

        Args:
            twice: they may be done twice, and are sent again if a connection is lost before the replies come.
            after: one command more for each node, behind its parts; its reply stands behind those of each part.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        done: list[list[Any] | Exception] = [[] for _ in parts]
        left = list(range(len(parts)))
        for turn in itertools.count():
            left = await self._exchange_once(parts, left, done, twice, after)
            if not left or (turn and loop.time() + MOVING_S > deadline):
                break
            moved = [done[at] for at in left if any(isinstance(reply, MovedError) for reply in _replies(done[at]))]
            if moved:
                try:
                    await self.find()
                except Exception as error:
                    log.warning("the nodes of the Redis Cluster cannot be found", error=str(error))
            if len(moved) < len(left) or loop.time() - self._found_at < MOVING_S:
                await asyncio.sleep(MOVING_S)
        return done

    async def _exchange_once(
        self, parts: Sequence[Part], left: list[int], done: list[list[Any] | Exception], twice: bool, after: bytes
    ) -> list[int]:
        """Do so once; which parts are to be sent again."""
        places: dict[ClusterMember, list[int]] = {}
        for at in left:
            try:
                places.setdefault(await self.member_of(parts[at].key), []).append(at)
            except (RedisError, OSError) as error:
                done[at] = error
        outcomes = await asyncio.gather(
            *(self.ask(member, [parts[at] for at in mine], twice, after) for member, mine in places.items())
        )
        again: list[int] = []
        for (member, mine), outcome in zip(places.items(), outcomes, strict=True):
            for at, replies in zip(mine, outcome, strict=True):
                done[at] = replies
                if any(isinstance(reply, (MovedError, AskError, TryAgainError)) for reply in _replies(replies)):
                    again.append(at)
                elif any(isinstance(reply, NoScriptError) for reply in _replies(replies)):
                    try:
                        async with Within(self._timeout_s, member):
                            await member.load_script()
                        again.append(at)
                    except (RedisError, OSError) as error:
                        done[at] = error
        return again

    async def ask(
        self, member: ClusterMember, parts: Sequence[Part], twice: bool = True, after: bytes = b""
    ) -> list[list[Any] | Exception]:
        """What one node replies to each of some parts, or why it does not."""
        loop = asyncio.get_running_loop()
        if member.until > loop.time() and member.trouble is not None:
            return [member.trouble] * len(parts)
        count = sum(part.count for part in parts)
        try:
            async with Within(self._timeout_s, member):
                whole = b"".join([part.commands for part in parts]) + after
                replies = await member.exchange(whole, count + bool(after), twice)
        except Exception as error:  # uvloop raises a bare RuntimeError when a transport closes under redis-py
            if member.trouble is None:
                log.warning("a node of the Redis Cluster does not answer", node=member.name, error=repr(error))
            member.trouble, member.until = error, loop.time() + LEFT_ALONE_S
            await member.drop_idle()
            self._find_soon()
            return [error] * len(parts)
        if member.trouble is not None:
            log.info("a node of the Redis Cluster answers again", node=member.name)
        member.trouble = None
        shared, at, of_parts = replies[count:], 0, list[list[Any] | Exception]()
        for part in parts:
            of_parts.append(replies[at : at + part.count] + shared)
            at += part.count
        return of_parts

    async def drop_idle(self) -> None:
        """Close the connections that nobody uses."""
        for member in list(self._members.values()):
            await member.drop_idle()

    async def close(self) -> None:
        """Close all connections."""
        if self._finding is not None:
            self._finding.cancel()
        await self.drop_idle()
        await self._finder.aclose()
        await self._finder.aclose("startup_nodes")


def _replies(outcome: list[Any] | Exception) -> list[Any]:
    return [] if isinstance(outcome, Exception) else outcome
