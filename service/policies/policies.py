"""StreamPolicies: the policies that this process goes by, of each tenant whose streams it has seen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import numpy as np

from gatewatch.models.detectors.asked import Asked
from gatewatch.service.aside import aside
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import InvalidPolicies, Outdated, TooLarge
from gatewatch.service.incidents.rules import Rules
from gatewatch.service.policies.policy import (
    MOST_STREAMS,
    NOTHING_ASKED,
    Policies,
    Policy,
    PolicyDocument,
    PolicyFinder,
    labelled,
    require_bounds,
    with_labels,
    with_labels_of,
)
from gatewatch.service.policies.quiet import Fault, Quiet
from gatewatch.service.policies.windows import MOST_WINDOW_BYTES, MOST_WINDOWS, Window, bytes_of
from gatewatch.service.serving.shared_document import KeptDocument, SharedDocument, look_each_second, now_text


class _OfTenant(SharedDocument[PolicyDocument]):
    """The policies of one tenant, and the finder in them."""

    def __init__(self, kept: KeptDocument) -> None:
        super().__init__("policies", PolicyDocument(), kept, self._find_in)
        self.finder = PolicyFinder(self.document)

    async def _find_in(self, document: PolicyDocument) -> None:
        self.finder = await aside(PolicyFinder, document)  # a thousand new patterns take 0.1 s


class StreamPolicies:
    """What is asked of streams.

    A tenant's policies are known before the first of its readings is scored here, and looked for each second since.
    """

    def __init__(
        self,
        kept: Callable[[str], KeptDocument],
        numbers: Callable[[list[str]], Awaitable[list[int]]],
    ) -> None:
        """Know nothing yet.

        Args:
            kept: where a tenant's document is.
            numbers: those of the documents of some tenants, in one round trip; raises StoreUnavailable.
        """
        self._kept = kept
        self._numbers = numbers
        self._tenants: dict[str, _OfTenant] = {}
        self._known: dict[str, _OfTenant] = {}

    def of(self, stream: StreamKey) -> Policy:
        """A stream's policy; nothing is asked of streams of a tenant that is not known yet."""
        tenant = self._known.get(stream.tenant)
        return NOTHING_ASKED if tenant is None else tenant.finder.of(stream.name)

    def tags(self, stream: StreamKey) -> Mapping[str, str]:
        """What a stream belongs to: name to value."""
        return self.of(stream).tags

    def is_muted(self, stream: StreamKey) -> bool:
        """Whether nobody is to be told of a stream."""
        return self.of(stream).muted

    async def know(self, streams: Iterable[StreamKey]) -> None:
        """Have the policies of the tenants of streams. Raises StoreUnavailable."""
        for tenant in {stream.tenant for stream in streams} - self._known.keys():
            await self.newest(tenant)

    def asked(self, streams: Sequence[StreamKey], channels: Sequence[Sequence[str]]) -> Asked | None:
        """What is asked of the scoring of B streams with the same number of channels; None where that is nothing.

        Args:
            channels: (B,) of each stream, in the order in which they are scored.
        """
        if all(tenant.finder.asks_nothing for tenant in self._known.values()):
            return None
        policies = [self.of(stream) for stream in streams]
        if not any(policy.scores_otherwise for policy in policies):
            return None
        return Asked(
            np.array([policy.sensitivity or 1.0 for policy in policies]),
            np.array([policy.false_alarm_rate or np.nan for policy in policies]),
            np.array([policy.alerts_per_week or np.nan for policy in policies]),
            np.array([_ignored(policy, tuple(own)) for policy, own in zip(policies, channels, strict=True)]),
            np.array([policy.held or np.nan for policy in policies]),
            np.array([policy.least_factor for policy in policies]),
        )

    def rules(self, streams: Sequence[StreamKey]) -> dict[int, Rules]:
        """Place to the rules of those streams that have any."""
        if not any(tenant.finder.has_rules for tenant in self._known.values()):
            return {}
        found = {}
        for at, stream in enumerate(streams):
            tenant = self._known.get(stream.tenant)
            if tenant is not None and (rules := tenant.finder.rules(stream.name)) is not None:
                found[at] = rules
        return found

    def windows_now(self, stream: StreamKey, time_ms: int) -> list[str]:
        """The names of the maintenance windows that a stream is in at a time."""
        rules = self.rules([stream])
        return [one.name for one in rules[0].windows if one.has(time_ms)] if rules else []

    def active_windows(self, time_ms: int) -> int:
        """How many maintenance windows are going on at a time, of the tenants that are known."""
        return sum(one.has(time_ms) for tenant in self._known.values() for one in tenant.finder.active.values())

    async def newest(self, tenant: str) -> PolicyDocument:
        """A tenant's policies as they are now. Raises StoreUnavailable."""
        of_tenant = self._of_tenant(tenant)
        await of_tenant.look()
        self._known[tenant] = of_tenant
        return of_tenant.document

    async def put(self, tenant: str, asked: Policies, by: str, number: int | None) -> PolicyDocument:
        """Replace a tenant's policies; what labels made quiet stays on streams of which they say nothing of that.

        Args:
            number: of the document that was looked at; another one is refused.

        Raises:
            InvalidPolicies: they ask too much of one stream; or with the streams that have labels there are too many.
            Outdated: the document has another number.
            StoreUnavailable: Redis does not answer.
        """

        require_bounds(asked)

        async def decide(before: PolicyDocument) -> PolicyDocument | None:
            after = with_labels(asked, before.asked)
            if await aside(before.asked.__eq__, after):
                return None
            if number is not None and before.number != number:
                raise Outdated(
                    f"the policies have number {before.number} by now, not {number}: look at them, and do it again"
                )
            return before.model_copy(update={"asked": after, "at": now_text(), "by": by})

        return await self._change(tenant, decide)

    async def put_one(self, stream: StreamKey, policy: Policy, by: str) -> None:
        """Replace what is asked of one stream by itself; nothing asked takes the entry away. Labels as in `put`.

        Raises:
            InvalidPolicies: as many streams have one as may.
            StoreUnavailable: Redis does not answer.
        """
        await self._change_one(stream, lambda before: with_labels_of(before, policy), by)

    async def label(
        self, stream: StreamKey, incident_id: str, quiet: list[Quiet], faults: list[Fault], by: str
    ) -> Policy:
        """Have what is like an incident be quiet, or never be held back, in place of what was said of it before.

        Returns:
            What is asked of the stream by itself. Raises as `put_one`.
        """
        await self.newest(stream.tenant)
        own = self._known[stream.tenant].document.asked.streams.get(stream.name, NOTHING_ASKED)
        before = {*(one.incident for one in own.quiet), *(one.incident for one in own.faults)}
        if not (quiet or faults or incident_id in before):
            return own
        return await self._change_one(stream, lambda policy: labelled(policy, incident_id, quiet, faults), by)

    async def _change_one(self, stream: StreamKey, change: Callable[[Policy], Policy], by: str) -> Policy:
        """Change what is asked of one stream by itself. Raises as `put_one`."""
        now = NOTHING_ASKED

        async def decide(before: PolicyDocument) -> PolicyDocument | None:
            nonlocal now
            policy = now = change(before.asked.streams.get(stream.name, NOTHING_ASKED))
            streams = {name: one for name, one in before.asked.streams.items() if name != stream.name}
            if policy != NOTHING_ASKED:
                streams[stream.name] = policy
            if streams == before.asked.streams:
                return None
            if len(streams) > MOST_STREAMS:
                raise InvalidPolicies(f"{MOST_STREAMS} streams have policies of their own; expected a pattern for more")
            asked = Policies(policies=before.asked.policies, streams=streams)
            return before.model_copy(update={"asked": asked, "at": now_text(), "by": by})

        await self._change(stream.tenant, decide)
        return now

    async def put_window(self, tenant: str, name: str, window: Window | None, by: str) -> PolicyDocument:
        """Have a maintenance window, instead of the one of its name; None takes that away.

        Raises:
            InvalidPolicies: there are as many as may be.
            TooLarge: all of them would be larger than is kept, and larger than before.
            StoreUnavailable: Redis does not answer.
        """

        async def decide(before: PolicyDocument) -> PolicyDocument | None:
            windows = {other: one for other, one in before.windows.items() if other != name}
            if window is not None:
                windows[name] = window
            if windows == before.windows:
                return None
            if len(windows) > MOST_WINDOWS:
                raise InvalidPolicies(f"there are {MOST_WINDOWS} windows; expected one to be taken away first")
            size = await aside(bytes_of, windows)
            if size > MOST_WINDOW_BYTES and size > await aside(bytes_of, before.windows):
                raise TooLarge(
                    f"the windows would have {size} bytes; at most {MOST_WINDOW_BYTES} are kept of a tenant: say less, "
                    "or take one away first"
                )
            return before.model_copy(update={"windows": windows, "at": now_text(), "by": by})

        return await self._change(tenant, decide)

    async def run(self) -> None:
        """Look each second for newer documents of the tenants that are known, until cancelled."""
        await look_each_second(self._look, "policies")

    async def _change(
        self, tenant: str, decide: Callable[[PolicyDocument], Awaitable[PolicyDocument | None]]
    ) -> PolicyDocument:
        of_tenant = self._of_tenant(tenant)
        changed = await of_tenant.change(decide)
        self._known[tenant] = of_tenant
        return changed

    def _of_tenant(self, tenant: str) -> _OfTenant:
        if tenant not in self._tenants:
            self._tenants[tenant] = _OfTenant(self._kept(tenant))
        return self._tenants[tenant]

    async def _look(self) -> None:
        known = dict(self._known)
        for (_, of_tenant), number in zip(known.items(), await self._numbers(list(known)), strict=True):
            if number != of_tenant.number:
                await of_tenant.look()


def _ignored(policy: Policy, channels: tuple[str, ...]) -> list[bool]:
    return [policy.ignores(channel) for channel in channels] if policy.ignore else [False] * len(channels)
