"""What the client concludes from every way in which the population database can fail it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from connectors.population.client import PopulationClient
from connectors.population.simulator import Credentials
from schemas.population import (
    Ambiguous,
    IdRange,
    Outcome,
    PopulationItem,
    Unreachable,
    Verification,
    digest,
)
from schemas.synthetic import person
from tests.population.conftest import CREDENTIALS, Simulator, serving_from, speaking_to
from tests.population.items import guest, item, stay_id

ITEMS = [item(number) for number in range(1, 5)]
IDS = [one.stay_id for one in ITEMS]


async def took_effect(simulator: Simulator) -> int:
    """How many of ITEMS took effect; none may have done so twice."""
    effects = await simulator.effects()
    assert len(effects) == len(set(effects))
    return len(effects)


# -- nothing can have happened -----------------------------------------------------------------------------------------


async def test_a_service_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with speaking_to(f"http://127.0.0.1:{unused.getsockname()[1]}") as client:
            with pytest.raises(Unreachable, match="no_connection"):
                await client.send(ITEMS)
            with pytest.raises(Unreachable, match="no_connection"):
                await client.status(IDS)


async def test_a_service_whose_name_does_not_resolve_is_unreachable() -> None:
    async with speaking_to("http://population.invalid") as client:
        with pytest.raises(Unreachable, match="no_connection"):
            await client.send(ITEMS)


async def test_a_service_that_speaks_no_tls_where_tls_is_wanted_is_unreachable(simulator: Simulator) -> None:
    async with speaking_to(simulator.url.replace("http:", "https:")) as client:
        with pytest.raises(Unreachable, match="no_connection"):
            await client.send(ITEMS)


async def test_a_token_that_is_refused_twice_makes_the_service_unreachable(population_pool: asyncpg.Pool) -> None:
    dead_on_arrival = Credentials(
        CREDENTIALS.client_id, CREDENTIALS.client_secret, CREDENTIALS.admin_token, token_seconds=0
    )
    async with serving_from(population_pool, dead_on_arrival) as simulator, speaking_to(simulator.url) as client:
        with pytest.raises(Unreachable, match="unauthorised"):
            await client.send(ITEMS)
        assert await took_effect(simulator) == 0


async def test_a_wrong_secret_is_unreachable_and_named(simulator: Simulator) -> None:
    client = PopulationClient(simulator.url, CREDENTIALS.client_id, "wrong")
    await client.open()
    with pytest.raises(Unreachable, match="token_status_401"):
        await client.send(ITEMS)
    await client.close()


@pytest.mark.parametrize(
    ("kind", "settings", "code"),
    [
        ("server_error", {}, "token_status_500"),
        ("html_page", {}, "token_status_502"),
        ("malformed_json", {}, "token_unreadable"),
        ("reset", {}, "token_connection_lost"),
        ("no_answer", {}, "token_timeout"),
        ("latency", {"milliseconds": 60_000}, "token_timeout"),
        ("slow_body", {"milliseconds": 60_000}, "token_timeout"),
    ],
)
async def test_without_a_token_nothing_was_sent_whatever_the_reason(
    simulator: Simulator, kind: str, settings: dict[str, Any], code: str
) -> None:
    await simulator.arm(kind, on="token", **settings)
    async with speaking_to(simulator.url, answer_seconds=0.1 if code == "token_timeout" else 20.0) as client:
        with pytest.raises(Unreachable) as caught:
            await client.send(ITEMS)
        assert caught.value.code == code
    assert await took_effect(simulator) == 0


async def test_an_overloaded_service_says_when_to_come_back(simulator: Simulator, client: PopulationClient) -> None:
    await simulator.arm("server_error", status=503, retry_after_seconds=17)
    with pytest.raises(Unreachable) as caught:
        await client.send(ITEMS)
    assert (caught.value.code, caught.value.retry_after_seconds) == ("overloaded", 17.0)
    assert await took_effect(simulator) == 0


async def test_a_request_refused_as_a_whole_took_no_effect(simulator: Simulator) -> None:
    async with answering(413, {"code": "too_large"}, "application/problem+json") as client:
        with pytest.raises(Unreachable, match="request_refused_too_large"):
            await client.send(ITEMS)
    async with answering(422, {"code": "Khách Nguyễn Văn Thử bị từ chối"}, "application/problem+json") as client:
        with pytest.raises(Unreachable) as caught:
            await client.send(ITEMS)
    assert caught.value.code == "request_refused"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("retry_after", "seconds"), [("30", 30.0), ("Wed, 25 Nov 2026 07:28:00 GMT", None)])
async def test_a_request_to_wait_needs_no_particular_body(status: int, retry_after: str, seconds: float | None) -> None:
    async with answering(status, "", "text/plain", {"Retry-After": retry_after}) as client:
        with pytest.raises(Unreachable) as caught:
            await client.send(ITEMS)
    assert (caught.value.code, caught.value.retry_after_seconds) == ("overloaded", seconds)


@pytest.mark.parametrize(
    "token",
    [
        [],
        {"access_token": "x"},
        {"access_token": "x", "expires_in": "60"},
        {"access_token": "x\r\nHost: evil", "expires_in": 60},
        {"access_token": "thẻ", "expires_in": 60},
    ],
)
async def test_a_token_that_cannot_be_used_is_not_used(token: Any) -> None:
    async with answering(200, {"results": []}, token=token) as client:
        with pytest.raises(Unreachable, match="token_unreadable"):
            await client.send(ITEMS)


# -- something may have happened ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "code", "effective"),
    [
        ("no_answer", {}, "timeout", 0),
        ("no_answer", {"after_commit": True}, "timeout", 4),
        ("slow_body", {"milliseconds": 60_000}, "timeout", 4),
        ("reset", {}, "connection_lost", 0),
        ("reset", {"after_commit": True}, "connection_lost", 4),
        ("html_page", {}, "html_page", 0),
        ("html_page", {"after_commit": True}, "html_page", 4),
        ("server_error", {}, "status_500", 0),
        ("server_error", {"after_commit": True}, "status_500", 4),
        ("server_error", {"status": 503}, "status_503", 0),
        ("malformed_json", {}, "malformed_json", 0),
        ("malformed_json", {"after_commit": True}, "malformed_json", 4),
        ("zero_rows", {}, "no_results", 0),
        ("zero_rows", {"after_commit": True}, "no_results", 4),
    ],
)
async def test_an_answer_that_does_not_say_what_happened_is_ambiguous_and_the_status_resolves_it(
    simulator: Simulator, kind: str, settings: dict[str, Any], code: str, effective: int
) -> None:
    await simulator.arm(kind, **settings)
    async with speaking_to(simulator.url, answer_seconds=1.0 if code == "timeout" else 20.0) as sender:
        with pytest.raises(Ambiguous) as caught:
            await sender.send(ITEMS)
    assert caught.value.code == code
    assert await took_effect(simulator) == effective
    async with speaking_to(simulator.url) as client:
        states = await client.status(IDS)
        assert [state.digest for state in states.values() if state.version] == [digest(one) for one in ITEMS][
            :effective
        ]
        answer = await client.send(ITEMS)
    assert {result.outcome for result in answer.results.values()} == {
        Outcome.DUPLICATE if effective else Outcome.ACCEPTED
    }
    assert await took_effect(simulator) == 4


@pytest.mark.parametrize(("after_commit", "effective"), [(False, 2), (True, 4)])
async def test_of_a_partial_answer_the_results_that_came_are_used(
    simulator: Simulator, client: PopulationClient, after_commit: bool, effective: int
) -> None:
    await simulator.arm("partial", after_commit=after_commit)
    answer = await client.send(ITEMS)
    assert set(answer.results) == set(IDS[:2])
    assert {result.outcome for result in answer.results.values()} == {Outcome.ACCEPTED}
    assert answer.unanswered == set(IDS[2:])
    assert await took_effect(simulator) == effective


@pytest.mark.parametrize("kind", ["reset", "html_page", "server_error", "malformed_json", "zero_rows"])
async def test_a_question_for_the_status_can_fail_in_the_same_ways(
    simulator: Simulator, client: PopulationClient, kind: str
) -> None:
    await simulator.arm(kind, on="status")
    with pytest.raises(Ambiguous):
        await client.status(IDS)
    assert len(await client.status(IDS)) == 4


async def test_of_a_partial_status_the_rows_that_came_are_used(simulator: Simulator, client: PopulationClient) -> None:
    await simulator.arm("partial", on="status")
    assert len(await client.status(IDS)) == 2


# -- what is no failure ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["latency", "slow_body"])
async def test_a_slow_answer_within_the_time_limit_is_an_answer(
    simulator: Simulator, client: PopulationClient, kind: str
) -> None:
    await simulator.arm(kind, milliseconds=50)
    answer = await client.send(ITEMS)
    assert not answer.unanswered
    assert {result.verification for result in answer.results.values()} == {Verification.MATCHED}


async def test_a_token_that_expires_before_the_batch_is_renewed_once(
    simulator: Simulator, client: PopulationClient
) -> None:
    await client.status(IDS)
    await simulator.arm("token_expired")
    answer = await client.send(ITEMS)
    assert {result.outcome for result in answer.results.values()} == {Outcome.ACCEPTED}
    assert await took_effect(simulator) == 4


async def test_a_token_that_expires_in_the_middle_of_a_batch_lets_nothing_happen_twice(
    simulator: Simulator, client: PopulationClient
) -> None:
    await simulator.arm("token_expired", after_commit=True)
    answer = await client.send(ITEMS)
    assert [answer.results[one].outcome for one in IDS] == [Outcome.DUPLICATE] * 2 + [Outcome.ACCEPTED] * 2
    assert await took_effect(simulator) == 4


async def test_a_token_that_expires_again_at_once_is_not_renewed_without_end(
    simulator: Simulator, client: PopulationClient
) -> None:
    await simulator.arm("token_expired", count=2)
    with pytest.raises(Unreachable, match="unauthorised"):
        await client.send(ITEMS)
    assert not (await client.send(ITEMS)).unanswered


async def test_requests_that_lose_their_token_together_ask_for_one_new_token(
    simulator: Simulator, client: PopulationClient
) -> None:
    await client.status(IDS)
    await simulator.arm("latency", on="token", milliseconds=1, count=100)  # counts the requests for a token
    await simulator.arm("token_expired", on="status")
    await asyncio.gather(client.status(IDS), *(client.send([item(number)]) for number in range(1, 9)))
    assert (await simulator.admin("GET", "faults"))["struck"] == {"latency": 1, "token_expired": 1}


async def test_the_largest_batch_fits_the_limits_of_both_sides(client: PopulationClient) -> None:
    widest = guest(full_name="Ệ" * 200, document_number="Ệ" * 32)
    answer = await client.send([item(number, guest=widest) for number in range(1, 501)])
    assert len(answer.results) == 500
    assert len(await client.status([stay_id(number) for number in range(1, 501)])) == 500


# -- a service that is not the simulator -------------------------------------------------------------------------------


@asynccontextmanager
async def serving(answer: Handler, token: Any = None) -> AsyncIterator[PopulationClient]:
    """A client of some service that hands out a token and leaves everything else to `answer`."""

    async def hand_out(request: web.Request) -> web.Response:
        return web.json_response({"access_token": "x", "expires_in": 60} if token is None else token)

    application = web.Application()
    application.add_routes([web.post("/oauth2/token", hand_out), web.route("*", "/{rest:.*}", answer)])
    async with TestServer(application) as server, speaking_to(str(server.make_url("/"))) as client:
        yield client


def answering(
    status: int,
    content: Any,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
    token: Any = None,
) -> AbstractAsyncContextManager[PopulationClient]:
    """A client of some service that answers everything in one way."""
    body = content.encode() if isinstance(content, str) else orjson.dumps(content)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type=content_type, headers=headers)

    return serving(answer, token)


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    accepted = {"version": 1, "outcome": "accepted", "code": None, "verification": "unknown"}
    return {"stay_id": str(stay_id(number))} | accepted | changes


@pytest.mark.parametrize(
    ("status", "content", "content_type", "code"),
    [
        (200, "<html></html>", "text/html", "html_page"),
        (401, "<html></html>", "text/html", "html_page"),
        (403, "<html></html>", "text/html", "html_page"),
        (404, "", "text/plain", "status_404"),
        (408, "", "text/plain", "status_408"),
        (204, "", "application/json", "status_204"),
        (307, "", "text/plain", "status_307"),
        (504, "{}", "application/json", "status_504"),
        (200, "", "application/json", "malformed_json"),
        (200, "{}", "text/plain", "malformed_json"),
        (200, "{}", "application/json", "no_results"),
        (200, "[]", "application/json", "no_results"),
        (200, "null", "application/json", "malformed_json"),
        (200, '{"results":{}}', "application/json", "no_results"),
        (200, '{"results":[null,1,"x",{}]}', "application/json", "no_results"),
        (200, " " * (1024 * 1024 + 1), "application/json", "answer_too_large"),
    ],
)
async def test_an_answer_outside_the_contract_proves_nothing(
    status: int, content: Any, content_type: str, code: str
) -> None:
    async with answering(status, content, content_type, {"Location": "/elsewhere"}) as client:
        with pytest.raises(Ambiguous) as caught:
            await client.send(ITEMS)
        assert caught.value.code == code
        with pytest.raises(Ambiguous):
            await client.status(IDS)


@pytest.mark.parametrize(
    ("rows", "believed"),
    [
        ([row(1), row(2)], {1, 2}),
        ([row(2), row(1)], {1, 2}),
        ([row(1), row(1)], {1}),
        ([row(1, they_added="this")], {1}),
        ([row(1), row(2, version=2)], {1}),
        ([row(1), row(99)], {1}),
        ([row(1), row(2), row(2, outcome="stale")], {1}),
        ([row(1), row(2, outcome="refused")], {1}),
        ([row(1), row(2, outcome="ok")], {1}),
        ([row(1), row(2, verification=None)], {1}),
        ([row(1), "row 2"], {1}),
    ],
)
async def test_a_200_is_believed_only_row_by_row(rows: list[Any], believed: set[int]) -> None:
    async with answering(200, {"results": rows}) as client:
        answer = await client.send(ITEMS)
    assert set(answer.results) == {stay_id(number) for number in believed}
    assert answer.unanswered == set(IDS) - set(answer.results)


async def test_a_status_that_contradicts_itself_is_not_believed() -> None:
    held = {"stay_id": str(IDS[0]), "version": 1, "digest": "0" * 64, "verification": "matched"}
    unknown = {"stay_id": str(IDS[1]), "version": None, "digest": None, "verification": None}
    half = {"stay_id": str(IDS[2]), "version": 1, "digest": None, "verification": None}
    not_asked = {"stay_id": str(stay_id(99)), "version": None, "digest": None, "verification": None}
    async with answering(200, {"results": [held, unknown, unknown | held | {"version": 2}, half, not_asked]}) as client:
        assert set(await client.status(IDS)) == {IDS[1]}


async def test_an_answer_that_breaks_off_is_ambiguous() -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"results":[')
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(break_off) as client:
        with pytest.raises(Ambiguous, match="connection_lost"):
            await client.send(ITEMS)


EVERYTHING = IdRange(start=UUID(int=0), end=stay_id(50))


def held_row(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {"stay_id": str(stay_id(number)), "version": 1, "digest": "0" * 64} | changes


@pytest.mark.parametrize(
    "rows",
    [
        [],
        ["x"],
        [{"start": str(EVERYTHING.start), "end": str(stay_id(49)), "stays": 1, "digest": "0" * 64}],
        [{**EVERYTHING.model_dump(mode="json"), "stays": 1, "digest": None}],
        [{**EVERYTHING.model_dump(mode="json"), "stays": -1, "digest": "0" * 64}],
        [{**EVERYTHING.model_dump(mode="json"), "stays": stays, "digest": "0" * 64} for stays in (1, 2)],
    ],
)
async def test_of_digests_only_what_was_asked_and_does_not_contradict_itself_is_believed(rows: list[Any]) -> None:
    async with answering(200, {"results": rows}) as client:
        with pytest.raises(Ambiguous, match="no_results"):
            await client.digests([EVERYTHING])


async def test_a_range_whose_digest_is_missing_is_missing_from_the_answer() -> None:
    others = IdRange(start=stay_id(50), end=stay_id(60))
    row = {**others.model_dump(mode="json"), "stays": 0, "digest": "0" * 64, "they_added": "this"}
    async with answering(200, {"results": [row]}) as client:
        assert set(await client.digests([EVERYTHING, others])) == {others}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"results": []},
        {"results": [], "count": 1, "complete": True},
        {"results": [], "count": 0, "complete": False},
        {"results": [held_row(1)], "count": 2, "complete": True},
        {"results": [held_row(1), held_row(1)], "count": 2, "complete": True},
        {"results": [held_row(2), held_row(1)], "count": 2, "complete": True},
        {"results": [held_row(1), held_row(50)], "count": 2, "complete": True},
        {"results": [held_row(1), held_row(2, version=0)], "count": 2, "complete": True},
        {"results": [held_row(1), "x"], "count": 2, "complete": True},
        {"results": [held_row(1, digest=None)], "count": 1, "complete": True},
        {"results": [held_row(number) for number in range(1, 502)], "count": 501, "complete": True},
    ],
)
async def test_a_page_is_believed_as_a_whole_or_not_at_all(content: dict[str, Any]) -> None:
    async with answering(200, content) as client:
        with pytest.raises(Ambiguous, match="unbelievable_page"):
            await client.held(EVERYTHING)


@pytest.mark.parametrize("kind", ["reset", "html_page", "server_error", "malformed_json", "zero_rows", "partial"])
async def test_a_question_for_what_is_held_can_fail_in_the_same_ways(
    simulator: Simulator, client: PopulationClient, kind: str
) -> None:
    await client.send(ITEMS)
    await simulator.arm(kind, on="held")
    with pytest.raises(Ambiguous):
        await client.held(EVERYTHING)
    assert [row.stay_id for row in (await client.held(EVERYTHING)).results] == IDS
    await simulator.arm(kind, on="digests")
    with pytest.raises(Ambiguous):
        await client.digests([EVERYTHING])
    assert (await client.digests([EVERYTHING]))[EVERYTHING].stays == 4


# -- its own manners ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [[], [item(), item(version=2)], [item(number) for number in range(501)]])
async def test_what_is_no_batch_is_not_sent(client: PopulationClient, items: list[PopulationItem]) -> None:
    with pytest.raises(ValueError, match="a batch is"):
        await client.send(items)


@pytest.mark.parametrize("count", [0, 501])
async def test_a_question_about_no_stay_or_too_many_is_not_asked(client: PopulationClient, count: int) -> None:
    with pytest.raises(ValueError, match="1-500"):
        await client.status([stay_id(number) for number in range(count)])


@pytest.mark.parametrize("ranges", [[], [EVERYTHING, EVERYTHING], [EVERYTHING] * 501])
async def test_ranges_that_are_none_or_overlap_are_not_asked_for(
    client: PopulationClient, ranges: list[IdRange]
) -> None:
    with pytest.raises(ValueError, match="ranges"):
        await client.digests(ranges)


@pytest.mark.parametrize("url", ["", "population", "ftp://population", "https://", "https://user:secret@population"])
def test_an_address_that_cannot_be_meant_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        PopulationClient(url, "a", "b")


async def test_a_client_is_opened_once_and_closed_as_often_as_one_likes() -> None:
    client = PopulationClient("http://127.0.0.1:1", "a", "b")
    with pytest.raises(RuntimeError, match="not open"):
        await client.send(ITEMS)
    await client.open()
    with pytest.raises(RuntimeError, match="open already"):
        await client.open()
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="not open"):
        await client.status(IDS)


async def test_neither_logs_nor_errors_nor_reprs_tell_about_the_guest_or_the_secret(
    simulator: Simulator, client: PopulationClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await client.send(ITEMS)
    for kind in ("reset", "malformed_json", "html_page"):
        await simulator.arm(kind, after_commit=True)
        with pytest.raises(Ambiguous) as caught:
            await client.send(ITEMS)
        assert caught.value.__cause__ is None
        assert caught.value.args == (caught.value.code,)
    told = caplog.text + repr(client) + repr(CREDENTIALS)
    one = person(20)
    for secret in (one.full_name, one.document_number, one.birth_date, CREDENTIALS.client_secret, "admin-token"):
        assert secret not in told
