"""Translated: a block of work with the store, out of which all trouble comes as StoreUnavailable."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from gatewatch.service.errors import ForeignValue, PartlyUnavailable, StoreUnavailable
from gatewatch.service.storage.errors import Away, Signs, Within, is_elsewhere, trouble_of

if TYPE_CHECKING:
    from gatewatch.service.storage.database import Database


class Translated:
    """A block in which whatever goes wrong with the store becomes StoreUnavailable; see `Database.translated`.

    Beside RedisError and OSError, uvloop raises a bare RuntimeError out of redis-py when a transport closes under it.
    """

    __slots__ = ("_begun", "_database", "_what", "_within")

    def __init__(
        self, database: Database, what: str, timeout_s: float | None, begun: bool, signs: Signs | None = None
    ) -> None:
        self._database = database
        self._what = what
        self._within = None if timeout_s is None else Within(timeout_s, signs)
        self._begun = begun

    async def __aenter__(self) -> None:
        if self._within is not None:
            await self._within.__aenter__()
        if not self._begun:
            try:
                await self._database.begin_keys()
            except BaseException as error:
                await self.__aexit__(type(error), error, error.__traceback__)
                raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._within is not None:
                await self._within.__aexit__(kind, error, trace)
        except TimeoutError as late:
            error = late
        if not isinstance(error, Exception) or isinstance(error, StoreUnavailable):
            return
        if is_elsewhere(error):
            await self._database.drop_idle()
        foreign = await self._database.foreign() if "WRONGTYPE" in str(error) else ""
        if foreign:
            raise ForeignValue(f"could not {self._what}: {foreign}") from error
        message = f"could not {self._what}: {trouble_of(error)}; nothing is lost, send the same request again"
        if isinstance(error, Away):
            raise PartlyUnavailable(message, self._database.lies_in(error.tags)) from error
        raise StoreUnavailable(message) from error
