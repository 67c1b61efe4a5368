"""Past: readings of the past bring a stream to where it would stand, had it sent them live; none is told of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from gatewatch.service.core.outcomes import Answer, Encoded, Outcomes, Refused
from gatewatch.service.core.scorer import Scorer
from gatewatch.service.doors.door import Part, merged
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.intake.beside import CHUNK, Beside
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.observability.rejections import Rejected

WORDS: Final = ("taken", "replayed", "late", "conflict", "rejected")
"""What may become of a reading of the past."""

NAMED: Final = 16
"""Most channels that an answer names as left out: a body may name some hundred thousand."""


class _Words:
    """An Encoder that says in a word what became of a reading.

    Attributes:
        unknown: channels that readings were taken without, the first NAMED of them.
        without: readings that were taken without channels.
    """

    def __init__(self) -> None:
        self.unknown = set[str]()
        self.without = 0

    def encode(self, outcomes: Outcomes) -> list[Encoded]:
        """`taken`, or `replayed` for one that was applied before."""
        return ["replayed" if outcomes.replayed else "taken"] * len(outcomes.streams)

    def refusal(self, refused: Refused) -> Encoded:
        """Late, conflict or rejected."""
        return refused.status

    def with_unknown(self, answer: Encoded, channels: Sequence[str]) -> Encoded:
        """The same; the channels are told of once for all readings."""
        self.without += 1
        for name in channels:
            if len(self.unknown) == NAMED:
                break
            self.unknown.add(name)
        return answer


class Past:
    """Takes in readings of the past."""

    def __init__(self, scorer: Scorer, beside: Beside, rejected: Rejected, metrics: Metrics) -> None:
        """`scorer`: over a PastStore."""
        self._scorer = scorer
        self._beside = beside
        self._rejected = rejected
        self._metrics = metrics

    async def take(self, parts: Sequence[Part]) -> dict[str, Any]:
        """Apply readings; returns how many were sent, what became of them, and what was refused or left out of them.

        Raises:
            StoreUnavailable: what came before that is applied; it says how many.
            TooManyWaiting: too many wait.
        """
        words, done, sent = _Words(), Counter[str](), sum(len(part.decoded) for part in parts)

        def count(answers: Sequence[Answer]) -> None:
            done.update(_word(answer) for answer in answers)
            self._metrics.past(sum(answer == "taken" for answer in answers))

        try:
            readings = [part.decoded.readings for part in parts]
            scored = await self._beside.score(self._scorer, readings, words, CHUNK, count)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{done.total()} of {sent} readings were looked at, {done['taken']} of them applied, before: {error}"
            ) from error
        answers = merged(parts, scored, words)
        for part in parts:
            self._rejected.look_unknown(part.decoded)
        refused = ((at, answer) for at, answer in enumerate(answers) if isinstance(answer, Refused))
        at, first = next(refused, (0, None))
        counts = Counter(map(_word, answers))
        return {
            "sent": sent,
            **{word: counts[word] for word in WORDS},
            "first_refused": None if first is None else f"reading {at}: {first.status}: {first.error}",
            "without_unknown": words.without,
            "unknown": sorted(words.unknown),
        }


def _word(answer: Answer) -> str:
    return answer.status if isinstance(answer, Refused) else str(answer)
