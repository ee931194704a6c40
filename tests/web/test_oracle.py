"""What a key can be made to tell about strangers: an attacker tries every way of an owner, and answers are counted.

The attacker holds a key of a facility and candidates for the documents of people whose names and birth dates are known.
The same attack runs in two worlds that differ in every guess. What differs in what the attacker sees is what was
learned; everything else is noise that the attacker makes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from asm_daemon import sync
from asm_daemon.crypto import Keyring
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.store import alerts
from asm_daemon.verification import answers_a_day
from connectors.population.client import PopulationClient
from connectors.population.simulator import migrate
from schemas.folding import fold_document, fold_name
from schemas.synthetic import person
from tests.population.conftest import Simulator, running, speaking_to
from tests.stack import Clock, FacilityMaker, Pools, declaration
from tests.web.conftest import Answer, KeyMaker, Web
from tests.web.test_kbtt import TOKEN, credentials
from tests.web.test_old_client import CITIZENS, citizen

BEDS = 20
VICTIMS = [index for index in range(1, 112) if index % 10 != 9][:100]
CANDIDATES = 2
GUESSES = [(victim, candidate) for victim in VICTIMS for candidate in range(CANDIDATES)]
ROUND = 10
LIMIT = answers_a_day(BEDS)


@pytest.fixture(scope="module")
async def population(server: EmbeddedPostgres, superuser: asyncpg.Connection) -> str:
    await superuser.execute("CREATE DATABASE population_of_oracle TEMPLATE template0 STRATEGY file_copy")
    url = server.dsn(database="population_of_oracle")
    await migrate(url)
    return url


@pytest.fixture
async def simulator(population: str) -> AsyncIterator[Simulator]:
    async with running(population) as made:
        await made.pool.execute("TRUNCATE persons, revoked_documents, stays, effects, sender_violations")
        yield made


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[PopulationClient]:
    async with speaking_to(simulator.url, answer_seconds=20.0) as made:
        yield made


def number_of(victim: int, candidate: int) -> str:
    """A candidate for the personal number of a synthetic person."""
    number = person(victim).document_number
    return f"{number[:6]}{int(number[6:]) + candidate * 500_000:06d}"


async def make_world(simulator: Simulator, right: set[tuple[int, int]]) -> None:
    """Let exactly these guesses be right."""
    await simulator.pool.execute("TRUNCATE persons")
    await simulator.pool.executemany(
        "INSERT INTO persons (index, document_number, name_folded, birth_date) VALUES ($1, $2, $3, $4)",
        [
            (place, fold_document(number_of(*guess)), fold_name(who.full_name), who.birth_date)
            for place, guess in enumerate(sorted(right))
            for who in (person(guess[0]),)
        ],
    )


_OF_THE_BATCH = ("leaf_index", "proof")  # of a receipt: who else was in the same commit
_WORD = re.compile(r"[a-z_.]{1,40}")


def seen(value: Any) -> Any:
    """An answer without what is of the moment or at random: ids, instants, signatures, texts."""
    if isinstance(value, dict):
        return {name: seen(each) for name, each in value.items() if name not in _OF_THE_BATCH}
    if isinstance(value, list):
        return [seen(each) for each in value]
    return value if not isinstance(value, str) or _WORD.fullmatch(value) else "…"


@dataclass
class Attack:
    """One attack through one facility. `learned` has what was seen of each guess, `house` what of the facility."""

    asm: Web
    key: str
    facility: Facility
    pools: Pools
    keyring: Keyring
    client: PopulationClient
    clock: Clock
    learned: dict[tuple[int, int], list[Any]] = field(default_factory=dict)
    house: list[Any] = field(default_factory=list)
    confirmed: int = 0

    async def run(self) -> None:
        login = await self.asm.ask("POST", TOKEN, data=credentials(self.key, f"@{self.facility.code}"))
        token = login.json["data"]["AccessToken"]
        for start in range(0, len(VICTIMS), ROUND):
            victims = VICTIMS[start : start + ROUND]
            found = await asyncio.gather(*(self._declare(victim, token) for victim in victims))
            stays = dict(zip(victims, found, strict=True))
            await self._look({(victim, 0): stay for victim, stay in stays.items()})
            await asyncio.gather(*(self._correct(victim, stay) for victim, stay in stays.items()))
            await self._look({(victim, 1): stay for victim, stay in stays.items()})
            await asyncio.gather(*(self._cancel(victim, stay) for victim, stay in stays.items()))
            await self._look({(victim, 1): stay for victim, stay in stays.items()})

    async def _ask(self, method: str, path: str, **options: Any) -> Answer:
        answer = await self.asm.ask(method, path, self.key, **options)
        assert answer.status < 300, answer.body
        return answer

    def _saw(self, guess: tuple[int, int], answer: Answer) -> None:
        self.learned.setdefault(guess, []).append((answer.status, seen(answer.json)))

    async def _declare(self, victim: int, token: str) -> str:
        """Through another door each time."""
        number = number_of(victim, 0)
        if victim % 3 == 0:
            row = citizen(victim, self.clock(), soGiayTo=number, anhTruocB64="", anhSauB64="")
            answer = await self.asm.ask("POST", CITIZENS, token, json=[row])
            result = answer.json["data"]["results"][0]
        else:
            fields = declaration(victim, facility=self.facility.code)
            fields["guest"]["document"]["number"] = number
            rows = victim % 3 == 1
            path = "/v1/stays:batch" if rows else "/v1/stays"
            answer = await self._ask("POST", path, json=[fields] if rows else fields)
            result = answer.json["results"][0] if rows else answer.json
        self._saw((victim, 0), answer)
        stay_id: str = result["stay_id"]
        return stay_id

    async def _correct(self, victim: int, stay: str) -> None:
        patch = {"guest": {"document": {"number": number_of(victim, 1)}}}
        answer = await self._ask("PATCH", f"/v1/stays/{stay}", json=patch, headers={"If-Match": '"1"'})
        self._saw((victim, 1), answer)

    async def _cancel(self, victim: int, stay: str) -> None:
        answer = await self._ask("POST", f"/v1/stays/{stay}:cancel", json={"reason": "entered_by_mistake"})
        self._saw((victim, 1), answer)

    async def _look(self, stays: dict[tuple[int, int], str]) -> None:
        """Let everything be carried, then look at it in every way there is."""
        await sync.push_once(await self.pools.get("asm_sync"), self.keyring, self.client, now=self.clock)
        listed: dict[str, Any] = {}
        path: str | None = f"/v1/stays?limit=500&facility={self.facility.code}"
        while path:
            answer = await self._ask("GET", path)
            listed |= {stay["stay_id"]: stay for stay in answer.json["stays"]}
            path = answer.headers.get("Link", "").removeprefix("<").partition(">")[0] or None
        for stay in stays.values():
            assert listed[stay]["confirmed_version"] == listed[stay]["version"]
            self.confirmed += listed[stay]["status"] == "declared"
        events = await self._events()
        await asyncio.gather(*(self._examine(guess, stay, listed, events) for guess, stay in stays.items()))
        states = (await self._ask("GET", "/v1/facilities")).json["facilities"]
        [now] = [state for state in states if state["code"] == self.facility.code]
        self.house.append(seen(now))

    async def _examine(
        self, guess: tuple[int, int], stay: str, listed: dict[str, Any], events: dict[str, list[str]]
    ) -> None:
        self.learned[guess].append((seen(listed[stay]), events.get(stay)))
        for path in (f"/v1/stays/{stay}?view=full", f"/v1/stays/{stay}/receipt"):
            self._saw(guess, await self._ask("GET", path))

    async def _events(self) -> dict[str, list[str]]:
        """What is to be delivered about each stay since the last look, by webhook or cursor."""
        superuser = await self.pools.database.connect()
        found = await superuser.fetch("DELETE FROM owner_events_pending RETURNING kind, stay_id")
        events: dict[str, list[str]] = {}
        for row in found:
            events.setdefault(str(row["stay_id"]), []).append(row["kind"])
        return events


async def test_a_key_of_a_facility_of_20_beds_learns_at_most_30_answers_a_day_about_200_guesses(
    asm: Web,
    make_key: KeyMaker,
    make_facility: FacilityMaker,
    pools: Pools,
    keyring: Keyring,
    clock: Clock,
    simulator: Simulator,
    client: PopulationClient,
) -> None:
    """The figure of docs/threat-model.md. The facilities of the two worlds are of one vendor's key: neither lends."""
    places = [await make_facility(f"HY-NN-000{number}", capacity=BEDS) for number in (1, 2)]
    key = await make_key(PrincipalKind.VENDOR, *places, scopes=set(Scope))
    right = {guess for place, guess in enumerate(GUESSES) if place * 7919 % 3 == 0}
    attacks = []
    for place, world in zip(places, (right, set(GUESSES) - right), strict=True):
        await make_world(simulator, world)
        attack = Attack(asm, key, place, pools, keyring, client, clock)
        await attack.run()
        assert attack.confirmed == len(GUESSES)  # the population database was asked about every one of them
        attacks.append(attack)
    here, there = attacks
    answered = [guess for guess in GUESSES if here.learned[guess] != there.learned[guess]]
    assert len(answered) == LIMIT == 30
    silent = [place for place, (one, other) in enumerate(zip(here.house, there.house, strict=True)) if one == other]
    assert set(range(2 * ROUND, len(here.house))) <= set(silent)  # nor do the facility's counts tell of the rest

    async with (await pools.get("asm_sync")).acquire() as connection:
        raised = await alerts.list_alerts(connection, closed=False, limit=10)
    assert {(alert.kind, alert.subject) for alert in raised} == {
        (kind, place.code) for kind in ("declare_and_cancel", "verification_withheld") for place in places
    }


async def test_a_question_that_is_repeated_day_by_day_tells_nothing_new(
    asm: Web,
    make_key: KeyMaker,
    make_facility: FacilityMaker,
    pools: Pools,
    keyring: Keyring,
    clock: Clock,
    simulator: Simulator,
    client: PopulationClient,
) -> None:
    """Who keeps a stay and touches it again and again does not learn when the population database changes its mind."""
    place = await make_facility("HY-NN-0001", capacity=BEDS)
    key = await make_key(PrincipalKind.OWNER, place)
    await make_world(simulator, {(1, 0)})
    filed = await asm.ask("POST", "/v1/stays", key, json=declaration(1))
    seen_states = []
    for version in range(1, 5):
        await sync.push_once(await pools.get("asm_sync"), keyring, client, now=clock)
        state = (await asm.ask("GET", f"/v1/stays/{filed.json['stay_id']}", key)).json
        assert state["confirmed_version"] == version
        seen_states.append((state["verification_told"], state["check_document"]))
        await make_world(simulator, {(1, version % 2)})
        clock.instant += timedelta(minutes=1) if version < 3 else timedelta(days=1)
        until = {"planned_departure_at": (clock() + timedelta(days=2 + version)).isoformat()}
        extended = await asm.ask("POST", f"/v1/stays/{filed.json['stay_id']}:extend", key, json=until)
        assert extended.status == 200, extended.body
    assert seen_states == [(True, False)] * 4


async def test_a_revoked_document_reaches_the_police_and_the_facility_is_told_as_of_any_mismatch(
    asm: Web,
    make_key: KeyMaker,
    owner_key: str,
    pools: Pools,
    keyring: Keyring,
    clock: Clock,
    simulator: Simulator,
    client: PopulationClient,
) -> None:
    await make_world(simulator, {(1, 0)})
    await simulator.pool.execute("INSERT INTO revoked_documents VALUES ($1)", number_of(1, 0))
    stays = [
        (await asm.ask("POST", "/v1/stays", owner_key, json=declaration(index))).json["stay_id"] for index in (1, 2)
    ]
    await sync.push_once(await pools.get("asm_sync"), keyring, client, now=clock)
    officer = await make_key(PrincipalKind.OFFICER)
    [alert] = (await asm.ask("GET", "/v1/police/alerts", officer)).json["alerts"]
    assert (alert["stay_id"], alert["verification"]) == (stays[0], "document_revoked")
    revoked, unknown = [(await asm.ask("GET", f"/v1/stays/{stay}", owner_key)).json for stay in stays]
    assert (revoked["check_document"], unknown["check_document"]) == (True, True)

    patch = {"guest": {"document": {"number": number_of(1, 1)}}}
    await make_world(simulator, {(1, 1)})
    corrected = await asm.ask("PATCH", f"/v1/stays/{stays[0]}", owner_key, json=patch, headers={"If-Match": '"1"'})
    assert corrected.status == 200, corrected.body
    await sync.push_once(await pools.get("asm_sync"), keyring, client, now=clock)
    [alert] = (await asm.ask("GET", "/v1/police/alerts", officer)).json["alerts"]
    assert (alert["version"], alert["confirmed_version"], alert["verification"]) == (1, 2, "matched")
    assert (await asm.ask("GET", f"/v1/stays/{stays[0]}", owner_key)).json["check_document"] is False
