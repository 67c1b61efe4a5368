"""How waiting requests share batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from gatewatch.service.clock import Clock
from gatewatch.service.core.outcomes import Answer
from gatewatch.service.core.readings import Part, Readings
from gatewatch.service.doors.reading_decoder import ReadingDecoder
from gatewatch.service.errors import Contended, StoreUnavailable, TooLarge, TooManyWaiting
from gatewatch.service.intake import batcher as intake
from gatewatch.service.intake.admission import BATCH_COST
from gatewatch.service.intake.batcher import LONG_S, SECOND_BATCH_MIN, WORKERS, Batcher
from gatewatch.service.intake.queue import MAX_PER_STREAM
from tests.support.clock import Hands
from tests.support.scorer import JSON, batcher_of, decode
from tests.support.waiting import PATIENCE_S


def names_of(parts: Sequence[Part]) -> list[str]:
    return [stream.name for part in parts for stream in part.readings.streams[part.start : part.stop]]


def seqs_of(parts: Sequence[Part]) -> list[int]:
    return [seq for part in parts for seq in part.readings.seqs[part.start : part.stop]]


class Recorder:
    """A scorer that notes its batches, and answers each reading with its seq."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, int]]] = []

    async def score_batch(self, batch: Sequence[Part]) -> list[Answer]:
        await asyncio.sleep(0)
        self.batches.append(list(zip(names_of(batch), seqs_of(batch), strict=True)))
        return [str(seq) for seq in seqs_of(batch)]

    async def ping(self) -> bool:
        return True


class Model:
    """What a door asks of a model."""

    decoder = ReadingDecoder(("pressure",), 60_000, 10_000)


def request(*streams: str, first: int = 0) -> Readings:
    """One reading for each name, numbered within the request."""
    content = [{"stream": name, "seq": first + at, "values": 1.5} for at, name in enumerate(streams)]
    return decode(Model, json.dumps(content).encode())[0].readings


async def submitted(batcher: Batcher, sent: Readings) -> list[Answer]:
    return await batcher.take(sent, JSON.encoder)


def gather(
    requests: list[Readings],
    batch_readings: int = 100,
    waiting: int = 10_000,
    recorder: Recorder | None = None,
    waiting_ms: float = 1e9,
    clock: Clock | None = None,
) -> tuple[Recorder, list[object]]:
    """Submit requests in order, all before the first batch begins; the batches, and each request's answers."""

    async def run() -> list[object]:
        batcher = batcher_of(used, None, batch_readings, waiting, waiting_ms, clock=clock)
        jobs = [asyncio.create_task(submitted(batcher, sent)) for sent in requests]
        await asyncio.sleep(0)
        batcher.start()
        results = await asyncio.gather(*jobs, return_exceptions=True)
        await batcher.stop()
        return list(results)

    used = recorder or Recorder()
    return used, asyncio.run(run())


def test_requests_share_a_batch_and_get_their_own_answers() -> None:
    recorder, answers = gather([request("a", "b"), request("c", first=7), request("d", "e", first=9)])
    assert len(recorder.batches) == 1
    assert answers == [["0", "1"], ["7"], ["9", "10"]]


def test_a_request_is_not_cut_to_fill_a_batch() -> None:
    recorder, answers = gather([request(*"abcdefg"), request(*"hijklmn"), request("z")], batch_readings=10)
    assert [len(batch) for batch in recorder.batches] == [7, 8]
    assert answers[1] == list("0123456")


def test_many_readings_of_one_stream_keep_nobody_waiting() -> None:
    deep, other = request(*["deep"] * (3 * MAX_PER_STREAM)), request("other", first=500)
    recorder, answers = gather([deep, other], batch_readings=1000)
    assert ("other", 500) in recorder.batches[0]
    assert all(len(batch) <= MAX_PER_STREAM + 1 for batch in recorder.batches)
    assert answers == [[str(n) for n in range(3 * MAX_PER_STREAM)], ["500"]]


def test_depth_is_that_of_the_batch_whoever_sent_it() -> None:
    recorder, answers = gather(
        [request("hot", first=at) for at in range(MAX_PER_STREAM + 8)] + [request("other", first=900)]
    )
    assert [len(batch) for batch in recorder.batches] == [MAX_PER_STREAM + 1, 8]
    assert ("other", 900) in recorder.batches[0]
    assert answers[:-1] == [[str(at)] for at in range(MAX_PER_STREAM + 8)]


class Overrun(Recorder):
    """Other processes keep writing stream `a`."""

    async def score_batch(self, batch: Sequence[Part]) -> list[Answer]:
        answers = await super().score_batch(batch)
        contended = Contended("other processes kept writing")
        return [contended if stream == "a" else text for stream, text in zip(names_of(batch), answers, strict=True)]


def test_a_contended_stream_fails_its_requests_and_nobody_else_in_their_batch() -> None:
    recorder, answers = gather([request(*"ab"), request(*"cd", first=5), request("a", first=8)], recorder=Overrun())
    assert len(recorder.batches) == 1
    assert isinstance(answers[0], Contended)
    assert answers[1] == ["5", "6"]
    assert isinstance(answers[2], Contended)


def test_of_a_request_that_failed_nothing_more_is_scored() -> None:
    recorder, answers = gather([request(*["a"] * (2 * MAX_PER_STREAM)), request("b", first=900)], recorder=Overrun())
    assert isinstance(answers[0], Contended)
    assert answers[1] == ["900"]
    assert sum(map(len, recorder.batches)) == MAX_PER_STREAM + 1


class Corrects(Recorder):
    """Readings of stream `late` get their answers when the others have theirs, or never."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.late: list[asyncio.Future[str]] = []

    async def score_batch(self, batch: Sequence[Part]) -> list[Answer]:
        answers = await super().score_batch(batch)
        for at, stream in enumerate(names_of(batch)):
            if stream == "late":
                self.late.append(asyncio.get_running_loop().create_future())
                asyncio.get_running_loop().call_later(0.01, self._answer, self.late[-1], str(answers[at]))
                answers[at] = self.late[-1]
        return answers

    def _answer(self, late: asyncio.Future[str], text: str) -> None:
        if self.error is None:
            late.set_result(text)
        else:
            late.set_exception(self.error)


def test_answers_that_come_later_find_their_places() -> None:
    sent = [request("late", "a", "late", "b"), request("c", first=7)]
    _, answers = gather(sent, recorder=Corrects())
    assert answers == [["0", "1", "2", "3"], ["7"]]
    deep = request(*["late", "a"] * (MAX_PER_STREAM + 3))
    _, answers = gather([deep], recorder=Corrects())
    assert answers == [[str(at) for at in range(2 * MAX_PER_STREAM + 6)]]


def test_a_correction_that_fails_fails_its_request_alone() -> None:
    _, answers = gather([request("late", "a"), request("a", first=7)], recorder=Corrects(StoreUnavailable("away")))
    assert isinstance(answers[0], StoreUnavailable)
    assert answers[1] == ["7"]


class Away(Recorder):
    """The store fails some batches."""

    def __init__(self, failures: int, pings: bool = True) -> None:
        super().__init__()
        self.failures = failures
        self.pings = pings

    async def ping(self) -> bool:
        return self.pings

    async def score_batch(self, batch: Sequence[Part]) -> list[Answer]:
        answers = await super().score_batch(batch)
        if len(self.batches) <= self.failures:
            raise StoreUnavailable("Redis did not answer in time")
        return answers


def test_a_failed_save_fails_its_batch_and_a_second_one_all_that_wait() -> None:
    sent = [request(*"ab"), request(*"cd", first=5), request(*"ef", first=8)]
    _, answers = gather(sent, batch_readings=2, recorder=Away(1))
    assert isinstance(answers[0], StoreUnavailable)
    assert answers[1:] == [["5", "6"], ["8", "9"]]
    recorder, answers = gather(sent, batch_readings=2, recorder=Away(2))
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert len(recorder.batches) == 2


def test_when_redis_does_not_answer_a_ping_either_nobody_waits_for_a_second_batch() -> None:
    sent = [request(*"ab"), request(*"cd", first=5), request(*"ef", first=8)]
    recorder, answers = gather(sent, batch_readings=2, recorder=Away(1, pings=False))
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert len(recorder.batches) == 1


class Slow(Recorder):
    """A reading takes ten seconds, by the batcher's clock."""

    def __init__(self, clock: Hands) -> None:
        super().__init__()
        self.clock = clock

    async def score_batch(self, batch: Sequence[Part]) -> list[Answer]:
        self.clock.seconds += 10.0 * (len(names_of(batch)) + BATCH_COST)
        return await super().score_batch(batch)


def test_what_would_wait_too_long_is_refused_by_the_pace_of_late() -> None:
    clock = Hands()

    async def run() -> list[object]:
        batcher = batcher_of(Slow(clock), None, 2, 100, 35_000, clock=clock)
        batcher.start()
        await submitted(batcher, request("first"))
        jobs = [asyncio.create_task(submitted(batcher, request(name))) for name in "abcdef"]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        results += [await submitted(batcher, request("last"))]
        await batcher.stop()
        return list(results)

    *taken, fifth, sixth, last = asyncio.run(run())
    assert taken == [["0"]] * 4  # with three, 30 s, ahead of it the fourth is still taken
    assert isinstance(fifth, TooManyWaiting)
    assert "4 readings that wait to be scored take 40.0 s; at most 35 s" in str(fifth)
    assert isinstance(sixth, TooManyWaiting)
    assert last == ["0"]


def test_a_deep_request_is_in_the_way_of_others_only_as_far_as_they_cannot_pass_it() -> None:
    clock = Hands()

    async def run() -> list[object]:
        batcher = batcher_of(
            Slow(clock),
            None,
            2 * MAX_PER_STREAM,
            10 * MAX_PER_STREAM,
            10.0 * (MAX_PER_STREAM + 3) * 1000,
            clock=clock,
        )
        batcher.start()
        await submitted(batcher, request("first"))
        sent = [request(*["deep"] * (8 * MAX_PER_STREAM)), *(request(name) for name in "abcdef")]
        jobs = [asyncio.create_task(submitted(batcher, one)) for one in sent]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        results += [await submitted(batcher, request(*"gh"))]
        await batcher.stop()
        return list(results)

    deep, *others, last = asyncio.run(run())
    assert deep == [str(at) for at in range(8 * MAX_PER_STREAM)]
    assert others[:4] == [["0"]] * 4
    assert all(isinstance(one, TooManyWaiting) for one in others[4:])
    assert last == ["0", "1"]


def test_a_deep_request_in_any_order_is_taken_in_order_and_answered_as_it_was_sent() -> None:
    deep = request(*["s"] * 100)
    shuffled = deep.rearranged([(37 * at) % 100 for at in range(100)])
    recorder, (answers,) = gather([shuffled])
    assert [seq for batch in recorder.batches for _, seq in batch] == list(range(100))
    assert answers == [str((37 * at) % 100) for at in range(100)]


def test_what_comes_later_of_a_stream_does_not_overtake() -> None:
    deep, same, after = request(*["s"] * (MAX_PER_STREAM + 5)), request("s", "t", first=900), request("t", first=950)
    recorder, _ = gather([deep, same, after], batch_readings=1000)
    in_order = [reading for batch in recorder.batches for reading in batch]
    assert [seq for stream, seq in in_order if stream == "s"] == [*range(MAX_PER_STREAM + 5), 900]
    assert [seq for stream, seq in in_order if stream == "t"] == [901, 950]


def test_more_than_may_wait_is_refused_at_once_and_the_others_are_not() -> None:
    _, answers = gather([request(*"abcd"), request(*"efgh"), request("i")], waiting=5)
    assert answers[0] == list("0123")
    assert isinstance(answers[1], TooManyWaiting)
    assert answers[2] == ["0"]


def test_more_than_may_ever_wait_is_too_large_and_not_refused_for_ever() -> None:
    _, answers = gather([request(*"abcdef"), request(*"abcde")], waiting=5)
    assert isinstance(answers[0], TooLarge)
    assert "6 readings in one request; at most 5 may wait to be scored (GATEWATCH_WAITING_READINGS)" in str(answers[0])
    assert answers[1] == list("01234")


def test_an_empty_request_waits_for_nothing() -> None:
    recorder, answers = gather([request()])
    assert answers == [[]]
    assert recorder.batches == []


@pytest.mark.parametrize("count", [MAX_PER_STREAM - 1, MAX_PER_STREAM, MAX_PER_STREAM + 1])
def test_all_of_a_deep_request_is_answered(count: int) -> None:
    recorder, answers = gather([request(*["s"] * count)])
    assert answers == [[str(n) for n in range(count)]]
    assert len(recorder.batches) == (1 if count <= MAX_PER_STREAM else 2)


class Beside(Recorder):
    """Batches take their time; the later one begins, the sooner it ends. Notes which are under way together."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: list[set[str]] = []
        self.together: list[list[set[str]]] = []

    async def score_batch(self, batch: Sequence[Part]) -> list[Answer]:
        mine = set(names_of(batch))
        self.under_way.append(mine)
        self.together.append(list(self.under_way))
        await asyncio.sleep(0.05 / len(self.together))
        self.under_way.remove(mine)
        return await super().score_batch(batch)


NAMES = [f"s{at}" for at in range(SECOND_BATCH_MIN)]


def test_where_many_wait_two_batches_are_under_way_of_different_streams() -> None:
    sent = [request(*NAMES), request(*(f"t{name}" for name in NAMES)), request(*NAMES, first=500)]
    recorder, answers = gather(sent, batch_readings=SECOND_BATCH_MIN, recorder=Beside())
    assert isinstance(recorder, Beside)
    assert max(map(len, recorder.together)) == WORKERS
    assert all(len(set().union(*batches)) == sum(map(len, batches)) for batches in recorder.together)
    assert answers == [[str(first + at) for at in range(SECOND_BATCH_MIN)] for first in (0, 0, 500)]
    of_one = [seq for batch in recorder.batches for stream, seq in batch if stream == "s7"]
    assert of_one == [7, 507]


def test_where_few_wait_they_share_the_next_batch() -> None:
    sent = [request(*NAMES[:50]), request(*NAMES[50:100]), request(*NAMES[100:150])]
    recorder, _ = gather(sent, batch_readings=50, recorder=Beside(), clock=Hands())
    assert isinstance(recorder, Beside)
    assert max(map(len, recorder.together)) == 1


@pytest.mark.parametrize(("first_sends", "sizes"), [(4, [1, 3, 3, 3, 2]), (1, [1, 2, 2, 2, 2])])
def test_whoever_was_just_answered_shares_the_next_batch_and_is_waited_for_no_longer_than_a_moment(
    first_sends: int, sizes: list[int]
) -> None:
    """Three that send one reading after the other, of whom the first begins alone."""

    async def run() -> list[list[tuple[str, int]]]:
        recorder = Beside()
        batcher = batcher_of(recorder, clock=Hands())
        batcher.start()

        async def keep_sending(name: str, count: int) -> None:
            for at in range(count):
                await batcher.take(request(name, first=at), JSON.encoder)

        first = asyncio.create_task(keep_sending("a", first_sends))
        for _ in range(10):
            await asyncio.sleep(0)  # its batch begins
        await asyncio.gather(first, keep_sending("b", 4), keep_sending("c", 4))
        await batcher.stop()
        return recorder.batches

    assert [len(batch) for batch in asyncio.run(run())] == sizes


def test_a_request_that_is_taken_in_parts_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first parts are answered, but not the request: nobody can send again."""
    monkeypatch.setattr(intake, "GATHER_S", 3600.0)
    monkeypatch.setattr(intake, "GATHER_SHARE", 1e9)

    async def run() -> None:
        batcher = batcher_of(Beside())
        batcher.start()
        await batcher.take(request(*["a"] * MAX_PER_STREAM, *["a"] * 4), JSON.encoder)
        await batcher.stop()

    async def patiently() -> None:
        await asyncio.wait_for(run(), PATIENCE_S)

    asyncio.run(patiently())


class Waits(Recorder):
    """The first batch takes until another one is scored."""

    def __init__(self) -> None:
        super().__init__()
        self.other = asyncio.Event()

    async def score_batch(self, batch: Sequence[Part]) -> list[Answer]:
        if "slow" in names_of(batch):
            await self.other.wait()
        answers = await super().score_batch(batch)
        self.other.set()
        return answers


def test_few_are_scored_beside_a_batch_that_takes_long_whatever_else_waits_for_it() -> None:
    async def run() -> list[list[Answer]]:
        scorer, clock = Waits(), Hands()
        batcher = batcher_of(scorer, clock=clock)
        batcher.start()
        jobs = [asyncio.create_task(submitted(batcher, request("slow")))]
        await asyncio.sleep(0)
        jobs.append(asyncio.create_task(submitted(batcher, request("slow", first=1))))
        await asyncio.sleep(0)
        jobs.append(asyncio.create_task(submitted(batcher, request("neighbour", first=2))))
        await asyncio.sleep(0)
        assert not scorer.batches
        clock.seconds = LONG_S
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*jobs)
        assert [names for ((names, _),) in scorer.batches] == ["neighbour", "slow", "slow"]
        await batcher.stop()
        return answers

    assert asyncio.run(run()) == [["0"], ["1"], ["2"]]


def test_what_a_long_batch_had_no_room_for_is_scored_beside_it_though_nothing_comes_after() -> None:
    async def run() -> list[list[Answer]]:
        scorer, clock = Waits(), Hands()
        batcher = batcher_of(scorer, batch_readings=1, clock=clock)
        jobs = [asyncio.create_task(submitted(batcher, request(name))) for name in ("slow", "neighbour")]
        await asyncio.sleep(0)
        batcher.start()
        await asyncio.sleep(0)
        clock.seconds = LONG_S
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*jobs)
        await batcher.stop()
        return answers

    assert asyncio.run(run()) == [["0"], ["0"]]


def test_a_batch_beside_a_long_one_makes_that_one_no_quicker() -> None:
    """What the long one took says how long others wait, whenever the small ones beside it ended."""

    async def run() -> None:
        scorer, clock = Waits(), Hands()
        batcher = batcher_of(scorer, clock=clock, waiting_ms=1000)
        batcher.start()
        jobs = [asyncio.create_task(submitted(batcher, request("slow")))]
        await asyncio.sleep(0)
        jobs.append(asyncio.create_task(submitted(batcher, request("neighbour", first=1))))
        await asyncio.sleep(0)
        clock.seconds = 10.0  # when both end
        async with asyncio.timeout(20):
            await asyncio.gather(*jobs)
        assert [names for ((names, _),) in scorer.batches] == ["neighbour", "slow"]
        several = [f"s{at}" for at in range(4)]  # 0.3 s each
        answers = batcher.take(request(*several), JSON.encoder)
        with pytest.raises(TooManyWaiting, match=r"take 1\.2 s"):
            batcher.take(request("next"), JSON.encoder)
        await answers
        await batcher.stop()

    asyncio.run(run())


def test_parts_of_a_request_that_end_out_of_turn_are_answered_in_its_order() -> None:
    many = [f"s{at}" for at in range(4 * SECOND_BATCH_MIN)]
    recorder, (answers,) = gather([request(*many)], batch_readings=SECOND_BATCH_MIN, recorder=Beside())
    assert isinstance(recorder, Beside)
    assert [batch[0][1] for batch in recorder.batches] != sorted(batch[0][1] for batch in recorder.batches)
    assert answers == [str(at) for at in range(4 * SECOND_BATCH_MIN)]


class Half(Beside):
    """The first batch fails, at once, the others do not."""

    async def score_batch(self, batch: Sequence[Part]) -> list[Answer]:
        if seqs_of(batch)[0] == 0:
            raise Contended("other processes kept writing")
        return await super().score_batch(batch)

    async def ping(self) -> bool:
        return True


def test_a_request_of_which_one_part_failed_fails_and_the_next_one_does_not() -> None:
    many = [f"s{at}" for at in range(3 * SECOND_BATCH_MIN)]
    _, answers = gather([request(*many), request(*many, first=5000)], batch_readings=SECOND_BATCH_MIN, recorder=Half())
    assert isinstance(answers[0], Contended)
    assert answers[1] == [str(5000 + at) for at in range(3 * SECOND_BATCH_MIN)]


class Stall(Away):
    """Two batches are under way when Redis stalls, and both fail; those that come later take their time."""

    def __init__(self) -> None:
        super().__init__(failures=WORKERS)
        self.begun = 0
        self.both = asyncio.Event()

    async def score_batch(self, batch: Sequence[Part]) -> list[Answer]:
        self.begun += 1
        if self.begun == WORKERS:
            self.both.set()
        await self.both.wait()
        if self.begun > WORKERS:
            await asyncio.sleep(0.01)
        return await super().score_batch(batch)


def test_one_stall_fails_the_two_batches_under_way_and_nobody_who_waits() -> None:
    sent = [request(*(f"{stream}{at}" for at in range(SECOND_BATCH_MIN))) for stream in "abcdef"]
    recorder, answers = gather(sent, batch_readings=SECOND_BATCH_MIN, recorder=Stall())
    assert all(isinstance(answer, StoreUnavailable) for answer in answers[:WORKERS])
    assert answers[WORKERS:] == [[str(at) for at in range(SECOND_BATCH_MIN)]] * 4
    assert len(recorder.batches) == len(sent)


class Silent(Away):
    """Redis does not answer a PING either, which takes its time to find out."""

    def __init__(self) -> None:
        super().__init__(failures=1)
        self.asked, self.known = asyncio.Event(), asyncio.Event()

    async def ping(self) -> bool:
        self.asked.set()
        await self.known.wait()
        return False


def test_what_comes_while_redis_is_asked_whether_it_is_there_takes_nobody_into_a_batch() -> None:
    """They would wait for Redis twice: once behind the batch that failed, once in the next one."""

    async def run() -> list[object]:
        batcher = batcher_of(recorder, None, 100, 100, 1e9)
        batcher.start()
        jobs = [asyncio.create_task(submitted(batcher, request("first")))]
        await asyncio.sleep(0)
        jobs += [asyncio.create_task(submitted(batcher, request("behind")))]
        await recorder.asked.wait()
        jobs += [asyncio.create_task(submitted(batcher, request("meanwhile")))]
        await asyncio.sleep(0.01)
        recorder.known.set()
        results = await asyncio.gather(*jobs, return_exceptions=True)
        results += [await submitted(batcher, request("afterwards"))]
        await batcher.stop()
        return list(results)

    recorder = Silent()
    *failed, last = asyncio.run(run())
    assert all(isinstance(answer, StoreUnavailable) for answer in failed)
    assert [stream for batch in recorder.batches for stream, _ in batch] == ["first", "afterwards"]
    assert last == ["0"]
