"""The load of the fault suite: owners who declare, correct, check out and cancel, a hospital, and an officer.

One seed fixes who does what; when it happens is the daemon's and the faults' doing. Every client is a careful vendor's:
what was not answered is sent again with the same names until it is, and after a conflict it asks what is on file.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import aiohttp
import orjson

from asm_daemon import samples_directory
from asm_daemon.crypto import Keyring
from asm_daemon.samples_directory import HOSPITAL, HOSPITAL_SENDER, SAMPLE_FACILITIES
from asm_daemon.store.pool import open_pool
from schemas.act import ActKind
from schemas.codes import FacilityKind
from schemas.synthetic import person
from tests.faults.contents import Content, dice, frame
from tests.faults.journal import Attempt, Journal, Read, Search, SentAct, utc_now

KNOWN_PERSONS = 1_000
"""People of this index and below are meant to be in the simulator's population; half of the load's are."""

_REQUEST_SECONDS = 3.0
_BACKOFF_SECONDS = (0.02, 0.5)
_DESKS = 2  # clients of one facility at work at the same time
_ACTS_PER_STORY = 4  # about; a story is one guest's stay
_KINDS: Mapping[str, FacilityKind] = {new.code: new.kind for new in SAMPLE_FACILITIES}
_PURPOSES = ("residence_check", "criminal_investigation", "missing_person")
_END = b"\x1c\r"


@dataclass(frozen=True)
class Doors:
    """Where the load may knock, read anew for every attempt, and the keys: owners' by facility code, an officer's."""

    base_urls: Sequence[str]
    mllp: Sequence[tuple[str, int]]
    owner_keys: Mapping[str, str]
    police: str | None = None


@dataclass(frozen=True)
class DoorKeys:
    """What `prepare` made: keys of `samples_directory.OWNED` and a sandbox by facility code, and an officer's."""

    owner_keys: Mapping[str, str]
    police: str

    def doors(self, base_urls: Sequence[str], mllp: Sequence[tuple[str, int]]) -> Doors:
        """With the addresses, everything that the load needs."""
        return Doors(base_urls, mllp, self.owner_keys, self.police)


async def prepare(database_url: str, keyring: Keyring, now: datetime | None = None) -> DoorKeys:
    """Enter the sample directory into a migrated database (URL with `{role}`), once for all clones of it.

    Hotel, guesthouse, rental housing, worker's housing and hospital with an owner each, a sandbox, the hospital's HL7
    sender and an officer. Keys are good for 30 days. `keyring` of the daemons that will read it.
    """
    pool = await open_pool(database_url, "asm_auth", min_size=0, max_size=2)
    try:
        keys = await samples_directory.load(pool, keyring, now or utc_now())
    finally:
        await pool.close()
    return DoorKeys({**keys.owners, samples_directory.SANDBOX: keys.sandbox}, keys.officer)


async def run_load(
    seed: int,
    doors: Doors,
    journal: Journal,
    *,
    acts: int,
    stop: asyncio.Event | None = None,
    pace_seconds: float = 0.0,
) -> None:
    """Send about `acts` acts and write everything into the journal.

    Returns when everything is answered, or soon after `stop` is set; what has no answer by then stays unknown. Each
    client waits `pace_seconds` on average between its acts.
    """
    stop = stop or asyncio.Event()
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS), connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        run = _Run(session, doors, journal, stop, pace_seconds)
        plans = _plans(seed, doors, acts)
        seen: list[_Story] = []
        async with asyncio.TaskGroup() as owners:
            for facility, stories in plans.items():
                waiting = deque(stories)
                for desk in range(_DESKS):
                    owners.create_task(_desk(run, facility, waiting, seen, dice(seed, facility, desk)))
            if doors.police is not None:
                owners.create_task(_officer(run, seen, acts // 10 + 1, dice(seed, "officer")))


# -- who stays where ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Story:
    """One guest's stay: how it is declared, and how it stands as far as its sender knows."""

    facility: str
    person: int
    dice: random.Random
    name: str
    by_key: bool
    over_mllp: bool
    stay_id: UUID | None = None
    version: int = 0
    status: str = "declared"
    room_seed: int = 0
    was_lost: bool = False  # an attempt to declare it was not answered, and may still be on its way
    declaration: SentAct | None = None

    @property
    def is_known(self) -> bool:
        """Whether the sender knows that it is on file."""
        return self.declaration is not None and self.declaration.is_accepted


def _plans(seed: int, doors: Doors, acts: int) -> dict[str, list[_Story]]:
    """Every person has one stay, so that a second one of anybody is one too many."""
    drawn = dice(seed)
    facilities = sorted(doors.owner_keys)
    count = max(len(facilities), acts // _ACTS_PER_STORY)
    people = drawn.sample(range(1, 2 * max(KNOWN_PERSONS, count)), count)
    plans: dict[str, list[_Story]] = {facility: [] for facility in facilities}
    for number, one in enumerate(people):
        facility = facilities[number % len(facilities)]
        over_mllp = facility == HOSPITAL and bool(doors.mllp) and drawn.random() < 0.7
        by_key = not over_mllp and drawn.random() < 0.3
        plans[facility].append(_Story(facility, one, dice(seed, number), f"S{seed}-{number}", by_key, over_mllp))
    return plans


async def _desk(run: _Run, facility: str, waiting: deque[_Story], seen: list[_Story], drawn: random.Random) -> None:
    hospital = _Hospital(run, drawn)
    while waiting and not run.stop.is_set():
        story = waiting.popleft()
        seen.append(story)
        if story.over_mllp:
            await hospital.live(story)
            continue
        together = [story]
        if drawn.random() < 0.3:  # a batch
            while waiting and len(together) < 5 and not waiting[0].over_mllp:
                together.append(waiting.popleft())
            seen.extend(together[1:])
            await _declare_batch(run, facility, together, drawn)
        else:
            await _declare(run, story)
        for each in together:
            await _live(run, each)
    hospital.close()


# -- the careful client ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer that settles what was asked: 2xx, or a refusal that is no fault of the moment."""

    status: int
    body: Any

    @property
    def code(self) -> str:
        """The problem code of a refusal."""
        return str(self.body.get("code")) if isinstance(self.body, dict) else str(self.status)


@dataclass
class _Run:
    session: aiohttp.ClientSession
    doors: Doors
    journal: Journal
    stop: asyncio.Event
    pace_seconds: float
    dice: random.Random = field(default_factory=random.Random)  # of when and where, which no seed can fix

    async def pause(self, dice: random.Random) -> None:
        """Think before the next act."""
        if self.pace_seconds:
            await self._wait(dice.expovariate(1 / self.pace_seconds))

    async def back_off(self, attempts: int) -> None:
        """Wait a little before the same is sent again."""
        first, longest = _BACKOFF_SECONDS
        await self._wait(self.dice.uniform(first, min(longest, first * 2**attempts)))

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    async def once(
        self, method: str, path: str, key: str, content: Any = None, headers: Mapping[str, str] | None = None
    ) -> _Answer | None:
        """One request at one of the doors; None if it has no whole answer."""
        given = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **(headers or {})}
        body = None if content is None else orjson.dumps(content)
        url = self.dice.choice(self.doors.base_urls) + path
        try:
            async with self.session.request(method, url, data=body, headers=given) as answer:
                return _Answer(answer.status, orjson.loads(await answer.read()))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None

    async def ask(
        self,
        acts: Sequence[SentAct],
        method: str,
        path: str,
        facility: str,
        content: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> _Answer | None:
        """The same request until it is answered; None if the run was stopped before."""
        attempts = 0
        while True:
            made = [Attempt(utc_now()) for _ in acts]
            for act, attempt in zip(acts, made, strict=True):
                act.attempts.append(attempt)
            answer = await self.once(method, path, self.doors.owner_keys[facility], content, headers)
            if answer is not None:
                for attempt in made:
                    attempt.status, attempt.code = answer.status, answer.code if answer.status >= 400 else None
                if answer.status < 500 and answer.status not in (408, 429):
                    return answer
            if self.stop.is_set():
                return None
            attempts += 1
            await self.back_off(attempts)

    def settle(self, act: SentAct, result: Mapping[str, Any]) -> None:
        """Write down a row's result, with its receipt. What was accepted is a duplicate when it is sent again."""
        problem = result.get("problem")
        if problem:
            act.outcome, act.code = "refused", problem["code"]
            if act.attempts:
                act.attempts[-1].status, act.attempts[-1].code = problem["status"], problem["code"]
            self._keep_enclosed(problem)
            return
        if act.outcome != "accepted":
            act.outcome, act.code, act.version = result["outcome"], None, result["version"]
            act.stay_id = UUID(result["stay_id"])
        self.journal.keep_receipt(UUID(result["stay_id"]), result["version"], result["receipt"])

    def refuse(self, act: SentAct, answer: _Answer) -> None:
        """Write down a refusal."""
        act.outcome, act.code = "refused", answer.code
        self._keep_enclosed(answer.body)

    def _keep_enclosed(self, problem: Any) -> None:
        """A refusal may enclose the receipt of the stay that stands in the way."""
        receipt = problem.get("receipt") if isinstance(problem, dict) else None
        if receipt:
            self.journal.keep_receipt(UUID(receipt["signed"]["stay_id"]), receipt["signed"]["version"], receipt)

    def content(self, story: _Story, kind: ActKind, seed: int | None = None) -> Content:
        """What the story's next act says."""
        drawn = story.dice.randrange(10**8) if seed is None else seed
        kind_of_facility = _KINDS[story.facility]
        return Content(kind, story.person, drawn, kind_of_facility, self.journal.began, story.over_mllp)


# -- declaring ---------------------------------------------------------------------------------------------------------


def _named(story: _Story, row: int = 1, key: str | None = None) -> dict[str, Any]:
    if story.by_key:
        return {"key": f"{key or story.name} {row}"}
    return {"source_ref": story.name}


def _fields(act: SentAct) -> dict[str, Any]:
    named = {"source_ref": act.source_ref} if act.source_ref else {}
    return act.content.fields() | named


async def _declare(run: _Run, story: _Story) -> None:
    """Sometimes by two senders at the same time, as when a desk and its software do not know of each other."""
    content = run.content(story, ActKind.DECLARE)
    senders = 2 if story.dice.random() < 0.15 else 1
    acts = [run.journal.enter(story.facility, "single", content, **_named(story)) for _ in range(senders)]
    story.declaration = acts[0]
    headers = {"Idempotency-Key": story.name} if story.by_key else None

    async def send(act: SentAct) -> None:
        answer = await run.ask([act], "POST", "/v1/stays", story.facility, _fields(act), headers)
        if answer is not None:
            _learn(run, story, act, answer)

    async with asyncio.TaskGroup() as sending:
        for act in acts:
            sending.create_task(send(act))


async def _declare_batch(run: _Run, facility: str, stories: Sequence[_Story], drawn: random.Random) -> None:
    """Good rows, some of them twice, and one that has to be refused."""
    key = f"B-{stories[0].name}"
    acts: list[SentAct] = []
    rows: list[dict[str, Any]] = []

    def add(story: _Story, content: Content, **members: Any) -> SentAct:
        named = _named(story, len(rows) + 1, key) | members
        acts.append(run.journal.enter(facility, "batch", content, **named))
        rows.append(_fields(acts[-1]))
        return acts[-1]

    for story in stories:
        content = run.content(story, ActKind.DECLARE)
        is_twice = drawn.random() < 0.3
        # Under another row's name the same guest at the same time is one too many: mostly the second, but the first if
        # what failed meanwhile was recorded in parts.
        one_too_many = {"refusals": frozenset({"already_staying"})} if is_twice and story.by_key else {}
        story.declaration = add(story, content, **one_too_many)
        if is_twice:
            add(story, content, **one_too_many)
        if drawn.random() < 0.3:
            wrong = add(
                story,
                run.content(story, ActKind.DECLARE),
                source_ref=f"{story.name}-bad",
                key=None,
                refusals=frozenset({"declaration_invalid"}),
                may_succeed=False,
            )
            rows[wrong.number - acts[0].number]["guest"] = {"full_name": "9"}
    answer = await run.ask(acts, "POST", "/v1/stays:batch", facility, rows, {"Idempotency-Key": key})
    while answer is not None and _is_to_be_sent_again(answer) and not run.stop.is_set():
        await run.back_off(2)
        answer = await run.ask(acts, "POST", "/v1/stays:batch", facility, rows, {"Idempotency-Key": key})
    if answer is None:
        return
    results = answer.body.get("results") or [None] * len(acts)
    for act, result in zip(acts, results, strict=True):
        if result is None:
            run.refuse(act, answer)
        else:
            run.settle(act, result)
    for story in stories:
        if story.declaration is not None:
            _take_over(story, story.declaration)


def _is_to_be_sent_again(answer: _Answer) -> bool:
    """Whether a part of a batch was refused for a reason of the moment."""
    results = answer.body.get("results") or [] if isinstance(answer.body, dict) else []
    return any((result.get("problem") or {}).get("status", 0) >= 500 for result in results)


def _learn(run: _Run, story: _Story, act: SentAct, answer: _Answer) -> None:
    if answer.status < 300:
        run.settle(act, answer.body)
        _take_over(story, act)
    else:
        run.refuse(act, answer)


def _take_over(story: _Story, act: SentAct) -> None:
    """What the sender knows of the stay once the act is on file."""
    if act.kind is ActKind.DECLARE:
        story.was_lost |= any(attempt.status is None for attempt in act.attempts)
    if not act.is_accepted or act.version is None:
        return
    story.stay_id, story.version = act.stay_id, max(act.version, story.version)
    if act.kind is ActKind.CHECK_OUT:
        story.status = "departed"
    elif act.kind is ActKind.UNDO_CHECK_OUT:
        story.status = "declared"
    elif act.kind is ActKind.CANCEL:
        story.status = "cancelled"


# -- what follows ------------------------------------------------------------------------------------------------------


async def _live(run: _Run, story: _Story) -> None:
    """Some more acts on a declared stay, each one that its state allows."""
    for _ in range(story.dice.choice((0, 1, 2, 3, 4, 6))):
        if not story.is_known or story.status == "cancelled" or run.stop.is_set():
            return
        await run.pause(story.dice)
        step = story.dice.choices(*zip(*_STEPS, strict=True))[0]
        await step(run, story)


async def _change(run: _Run, story: _Story, kind: ActKind, **members: Any) -> SentAct:
    """A change that names the version it is about, so that a copy that comes late does nothing."""
    version = members.pop("version", story.version)
    content = run.content(story, kind)
    act = run.journal.enter(
        story.facility, "single", content, source_ref=story.name, stay_id=story.stay_id, if_match=version, **members
    )
    path = f"/v1/stays/{story.stay_id}"
    verbs = {
        ActKind.CHECK_OUT: "check-out",
        ActKind.UNDO_CHECK_OUT: "undo-check-out",
        ActKind.EXTEND: "extend",
        ActKind.CANCEL: "cancel",
    }
    method, path = ("PATCH", path) if kind is ActKind.CORRECT else ("POST", f"{path}:{verbs[kind]}")
    answer = await run.ask([act], method, path, story.facility, content.fields(), {"If-Match": f'"{version}"'})
    if answer is not None:
        _learn(run, story, act, answer)
        if answer.status in (409, 412):
            await _ask_what_is_on_file(run, story)
    return act


async def _ask_what_is_on_file(run: _Run, story: _Story) -> None:
    """After a conflict: how does the stay stand?"""
    path = f"/v1/stays/{story.stay_id}" if story.by_key else f"/v1/stays?source_ref={story.name}"
    answer = await run.ask([], "GET", path, story.facility)
    if answer is None or answer.status != 200:
        return
    states = [answer.body] if story.by_key else answer.body["stays"]
    for state in states:
        story.version, story.status = state["version"], state["status"]


async def _correct(run: _Run, story: _Story) -> None:
    await _change(run, story, ActKind.CORRECT)


async def _correct_what_has_changed(run: _Run, story: _Story) -> None:
    """With a version that is not the stay's."""
    wrong = story.version - 1 if story.version > 1 else 7
    refusals = frozenset({"version_conflict"})
    await _change(run, story, ActKind.CORRECT, version=wrong, refusals=refusals, may_succeed=False)


async def _correct_at_two_desks(run: _Run, story: _Story) -> None:
    """Two who know the same version: one of them comes first."""
    refusals = frozenset({"version_conflict"})
    async with asyncio.TaskGroup() as desks:
        for _ in range(2):
            desks.create_task(_change(run, story, ActKind.CORRECT, refusals=refusals))


async def _leave_or_return(run: _Run, story: _Story) -> None:
    await _change(run, story, ActKind.UNDO_CHECK_OUT if story.status == "departed" else ActKind.CHECK_OUT)


async def _extend(run: _Run, story: _Story) -> None:
    if story.status == "declared":
        await _change(run, story, ActKind.EXTEND)


async def _cancel(run: _Run, story: _Story) -> None:
    # Without a name of the sender's own, a declaration that was lost on the way and comes late would be a new one.
    if not (story.by_key and story.was_lost):
        await _change(run, story, ActKind.CANCEL)


async def _declare_again(run: _Run, story: _Story) -> None:
    """Exactly the same again."""
    first = story.declaration
    if first is None or (first.door == "batch" and story.by_key):
        return
    act = run.journal.enter(story.facility, "single", first.content, source_ref=first.source_ref, key=first.key)
    headers = {"Idempotency-Key": story.name} if story.by_key else None
    answer = await run.ask([act], "POST", "/v1/stays", story.facility, _fields(act), headers)
    if answer is not None and answer.status < 300:
        run.settle(act, answer.body)
    elif answer is not None:
        run.refuse(act, answer)


async def _declare_otherwise(run: _Run, story: _Story) -> None:
    """Another content under the same name, or the same guest under another name while in house: both are conflicts."""
    if story.by_key or story.dice.random() < 0.5:
        if story.status != "declared":
            return
        name, refusal = f"{story.name}-again", "already_staying"
        seed = story.declaration.content.seed if story.declaration else 0
    else:
        name, refusal, seed = story.name, "content_differs", story.dice.randrange(10**8)
    act = run.journal.enter(
        story.facility,
        "single",
        run.content(story, ActKind.DECLARE, seed),
        source_ref=name,
        refusals=frozenset({refusal}),
        may_succeed=False,
    )
    answer = await run.ask([act], "POST", "/v1/stays", story.facility, _fields(act))
    if answer is not None and answer.status < 300:
        run.settle(act, answer.body)
    elif answer is not None:
        run.refuse(act, answer)
        await _ask_what_is_on_file(run, story)


async def _fetch_receipt(run: _Run, story: _Story) -> None:
    version = story.dice.randint(1, story.version)
    path = f"/v1/stays/{story.stay_id}/receipt?version={version}"
    answer = await run.ask([], "GET", path, story.facility)
    if answer is not None and answer.status == 200 and story.stay_id is not None:
        run.journal.keep_receipt(story.stay_id, version, answer.body)


async def _read_back(run: _Run, story: _Story) -> None:
    if story.stay_id is None:
        return
    read = Read(story.stay_id, utc_now())
    run.journal.reads.append(read)
    answer = await run.ask([], "GET", f"/v1/stays/{story.stay_id}?view=full", story.facility)
    if answer is not None and answer.status == 200:
        read.version, read.declaration = answer.body["version"], answer.body["declaration"]


_STEPS = (
    (_correct, 5),
    (_correct_what_has_changed, 1),
    (_correct_at_two_desks, 1),
    (_leave_or_return, 4),
    (_extend, 2),
    (_cancel, 1),
    (_declare_again, 1),
    (_declare_otherwise, 2),
    (_fetch_receipt, 1),
    (_read_back, 1),
)


# -- the hospital ------------------------------------------------------------------------------------------------------


class _Hospital:
    """A hospital's interface engine: one message in hand, the same again until it is acknowledged."""

    def __init__(self, run: _Run, dice: random.Random) -> None:
        self._run = run
        self._dice = dice
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def live(self, story: _Story) -> None:
        """A patient from admission to discharge, or to the end of a mistake."""
        admission = await self._say(story, ActKind.DECLARE)
        story.declaration = admission
        for _ in range(story.dice.randrange(3)):
            if admission.is_accepted:
                await self._say(story, ActKind.CORRECT)
        end = story.dice.random()
        if admission.is_accepted and end < 0.7:
            await self._say(story, ActKind.CHECK_OUT if end < 0.5 else ActKind.CANCEL)

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line[1].close()
            self._line = None

    async def _say(self, story: _Story, kind: ActKind) -> SentAct:
        await self._run.pause(story.dice)
        content = self._run.content(story, kind)
        if kind in (ActKind.DECLARE, ActKind.CORRECT):
            story.room_seed = content.seed
        control_id = f"{story.name}-{content.seed}"
        act = self._run.journal.enter(story.facility, "mllp", content, source_ref=story.name, control_id=control_id)
        message = frame(content, HOSPITAL_SENDER, story.name, control_id, story.room_seed)
        await self._until_acknowledged(act, message)
        if act.is_accepted and story.dice.random() < 0.2:  # an engine that is not sure sends it once more
            await self._until_acknowledged(act, message)
        return act

    async def _until_acknowledged(self, act: SentAct, message: bytes) -> None:
        attempts = 0
        while True:
            attempt = Attempt(utc_now())
            act.attempts.append(attempt)
            code = await self._exchange(message, act.control_id or "")
            attempt.status = code
            if code is not None:
                act.outcome, act.code = ("accepted", None) if code == "AA" else ("refused", code)
                return
            self.close()
            if self._run.stop.is_set():
                return
            attempts += 1
            await self._run.back_off(attempts)

    async def _exchange(self, message: bytes, control_id: str) -> str | None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                if self._line is None:
                    self._line = await asyncio.open_connection(*self._dice.choice(self._run.doors.mllp))
                reader, writer = self._line
                writer.write(message)
                await writer.drain()
                answer = await reader.readuntil(_END)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return None
        for line in answer.decode("utf-8", "replace").split("\r"):
            said = line.strip("\x0b").split("|")
            if said[0] == "MSA" and len(said) > 2 and said[2] == control_id and said[1] in ("AA", "AE", "AR"):
                return said[1]
        return None


# -- the officer -------------------------------------------------------------------------------------------------------


async def _officer(run: _Run, seen: list[_Story], searches: int, drawn: random.Random) -> None:
    """Looks for guests while they are being declared. A search is never repeated: each is on record by itself."""
    for _ in range(searches):
        while not seen:
            if run.stop.is_set():
                return
            await asyncio.sleep(0.02)
        await run.pause(drawn)
        if run.stop.is_set():
            return
        story = drawn.choice(seen)
        await _search(run, story, drawn.choice(_PURPOSES))


async def _search(run: _Run, story: _Story, purpose: str) -> None:
    is_trial = story.facility == samples_directory.SANDBOX
    on_file = [] if story.stay_id is None or is_trial else [story.stay_id]
    search = Search(story.person, utc_now(), frozenset(on_file))
    run.journal.searches.append(search)
    question = {
        "document_number": person(story.person).document_number,
        "purpose": purpose,
        "case_ref": "15/2026/HS-PC02",
    }
    answer = await run.once("POST", "/v1/police/searches", run.doors.police or "", question)
    if answer is None:
        return
    search.status = answer.status
    if answer.status != 200:
        search.code = answer.code
        return
    search.trace = answer.body["trace"]
    search.found = tuple(UUID(stay["stay_id"]) for stay in answer.body["stays"])
