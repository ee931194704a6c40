"""Events reach their endpoints at least once under one id, whatever breaks; and the daemon posts to nobody else."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest
import structlog
from uuid_utils.compat import uuid7

from asm_daemon import directory, events, webhooks
from asm_daemon.crypto import Keyring, epoch_at, epoch_bounds, next_epoch
from asm_daemon.keystores import create_store, open_keyring
from asm_daemon.log import configure_logging
from asm_daemon.model import Facility, PrincipalKind
from asm_daemon.problems import Refused
from asm_daemon.store import LOST, alerts
from asm_daemon.store import events as events_store
from asm_daemon.store import webhooks as store
from asm_daemon.store.events import EventKind, NewEvent
from asm_daemon.store.webhooks import Busy, Room
from asm_daemon.webhooks import Actor, Courier, Endpoints, signature, signed_headers
from connectors.webhooks.client import WebhookClient
from schemas.webhooks import ENDPOINTS_LIMIT, EventType, NewWebhook, WebhookSecret
from tests.stack import DEPLOYMENT, TESTER, Clock, FacilityMaker, Pools
from tests.webhook_receiver import LOOPBACK, Message, Receiver, eventually, receiving, resolve_by, unknown_name

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "verify_webhook.py"
PUBLIC_URL = "https://asm.test"
LEASE = webhooks.LEASE + timedelta(seconds=1)
LATER = timedelta(hours=13)  # longer than any backoff
BOSS = Actor.operator("test")


# -- the stage ---------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """What a test of the sending needs at hand."""

    pools: Pools
    keyring: Keyring
    clock: Clock
    facility: Facility
    client: WebhookClient
    owner: UUID
    counts: dict[str, int] = field(default_factory=dict)

    async def endpoints(self) -> Endpoints:
        return Endpoints(await self.pools.get("asm_intake"), self.keyring, plain_http=True, networks=LOOPBACK)

    async def register(self, url: str, principal: UUID | None = None, **members: Any) -> WebhookSecret:
        new = NewWebhook(url=url, **members)
        return await (await self.endpoints()).add(BOSS, principal or self.owner, new, self.clock())

    async def happens(self, kind: EventKind = EventKind.CHECK_DOCUMENT, facility: Facility | None = None) -> NewEvent:
        event = NewEvent(uuid7(), (facility or self.facility).id, kind, uuid7(), self.clock())
        async with (await self.pools.get("asm_sync")).acquire() as connection:
            await events_store.append_events(connection, [event])
        await events.number_once(await self.pools.get("asm_sync"), self.clock())
        return event

    async def courier(self, sender: webhooks.Sender | None = None, failing_hours: int = 72) -> Courier:
        pool = await self.pools.get("asm_sync")
        return Courier(
            pool, self.keyring, sender or self.client, PUBLIC_URL, now=self.clock, failing_hours=failing_hours
        )

    async def deliver(self, **options: Any) -> dict[str, int]:
        return await (await self.courier(**options)).deliver_once()

    async def rows(self, statement: str) -> list[asyncpg.Record]:
        return await (await self.pools.database.connect()).fetch(statement)

    async def endpoint(self) -> asyncpg.Record:
        [row] = await self.rows("SELECT * FROM webhook_endpoints")
        return row

    async def failures(self) -> list[tuple[str, int]]:
        rows = await self.rows("SELECT code, failures FROM webhook_failures ORDER BY code")
        return [tuple(row) for row in rows]


async def principal(pools: Pools, clock: Clock, *facilities: Facility) -> UUID:
    pool = await pools.get("asm_auth")
    made = await directory.add_principal(pool, TESTER, PrincipalKind.VENDOR, "Người thử", "Đơn vị thử", clock())
    for each in facilities:
        await directory.grant(pool, TESTER, made, each.code, clock())
    return made


@pytest.fixture
async def stage(
    pools: Pools, keyring: Keyring, clock: Clock, facility: Facility, webhook_client: WebhookClient
) -> Stage:
    return Stage(pools, keyring, clock, facility, webhook_client, await principal(pools, clock, facility))


# -- the signature -----------------------------------------------------------------------------------------------------


def test_the_signature_is_that_of_the_published_example() -> None:
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    wanted = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == wanted
    headers = {"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330"}
    received = Message({**headers, "webhook-signature": wanted}, body)
    assert received.signed_by("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert not Message(received.headers, body + b" ").signed_by("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


def documented() -> Any:
    """`docs/verify_webhook.py`, as a reader of the documentation has it."""
    spec = importlib.util.spec_from_file_location("verify_webhook", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_documented_lines_accept_what_is_sent_and_nothing_else(stage: Stage, receiver: Receiver) -> None:
    script = documented()
    made = await stage.register(receiver.url)
    await (await stage.endpoints()).rotate(BOSS, UUID(made.id), stage.clock())
    await stage.happens()
    await stage.deliver()
    [message] = receiver.messages
    now = stage.clock().timestamp()
    assert script.verify(made.secret, message.headers, message.body, now) == message.id
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    for secret, headers, body, at in (
        (other, {}, message.body, now),
        (made.secret, {}, message.body + b" ", now),
        (made.secret, {"webhook-id": "another"}, message.body, now),
        (made.secret, {"webhook-timestamp": str(int(now) - 1)}, message.body, now),
        (made.secret, {"webhook-signature": "v1,é v1a,x v1"}, message.body, now),
        (made.secret, {}, message.body, now + 301),
        (made.secret, {}, message.body, now - 301),
    ):
        with pytest.raises(ValueError, match=r"signed by somebody else|too old"):
            script.verify(secret, {**message.headers, **headers}, body, at)
    for missing in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        fewer = {name: value for name, value in message.headers.items() if name != missing}
        with pytest.raises(ValueError, match="missing"):
            script.verify(made.secret, fewer, message.body, now)


def test_each_secret_signs_each_attempt(clock: Clock) -> None:
    headers = signed_headers([b"new", b"old"], "id", clock(), b"{}")
    at = int(clock().timestamp())
    assert headers["webhook-signature"] == f"{signature(b'new', 'id', at, b'{}')} {signature(b'old', 'id', at, b'{}')}"


# -- the directory -----------------------------------------------------------------------------------------------------


async def test_http_is_refused_where_it_is_not_allowed(stage: Stage) -> None:
    endpoints = Endpoints(await stage.pools.get("asm_intake"), stage.keyring, plain_http=False)
    with pytest.raises(Refused) as caught:
        await endpoints.add(BOSS, stage.owner, NewWebhook(url="http://pms.example/"), stage.clock())
    assert [(found.code, found.pointer) for found in caught.value.violations] == [("wrong_format", "/url")]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "10.0.0.7", "169.254.169.254", "[::1]", "[fd00::1]", "0"]
)
async def test_an_address_that_is_not_public_is_refused_at_once_unless_its_network_is_allowed(
    stage: Stage, host: str
) -> None:
    pool, new = await stage.pools.get("asm_intake"), NewWebhook(url=f"https://{host}/hook")
    with pytest.raises(Refused) as caught:
        await Endpoints(pool, stage.keyring, plain_http=False).add(BOSS, stage.owner, new, stage.clock())
    assert [(found.code, found.pointer) for found in caught.value.violations] == [("address_not_public", "/url")]
    everywhere = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    await Endpoints(pool, stage.keyring, plain_http=False, networks=everywhere).add(
        BOSS, stage.owner, new, stage.clock()
    )


async def test_only_those_who_declare_have_endpoints_and_not_too_many(stage: Stage) -> None:
    officer = await directory.add_principal(
        await stage.pools.get("asm_auth"), TESTER, PrincipalKind.OFFICER, "Cán bộ", "Công an", stage.clock()
    )
    for stranger in (officer, uuid7()):
        with pytest.raises(Refused, match="request_invalid"):
            await stage.register("https://pms.example/", stranger)
    for _ in range(10):
        await stage.register("https://pms.example/")
    with pytest.raises(Refused) as caught:
        await stage.register("https://pms.example/")
    assert [found.code for found in caught.value.violations] == ["too_many_webhooks"]


async def test_owners_who_register_at_the_same_moment_get_no_more_than_the_limit(stage: Stage) -> None:
    async def register() -> str:
        try:
            return (await stage.register("https://pms.example/")).id
        except Refused as refusal:
            return refusal.violations[0].code

    outcomes = await asyncio.gather(*(register() for _ in range(ENDPOINTS_LIMIT + 6)))
    assert outcomes.count("too_many_webhooks") == 6
    assert len(await stage.rows("SELECT FROM webhook_endpoints")) == ENDPOINTS_LIMIT
    endpoints = await stage.endpoints()
    await endpoints.remove(BOSS, UUID(next(each for each in outcomes if each != "too_many_webhooks")), stage.clock())
    assert UUID(await register()), "a place that is free again is given again"


@pytest.mark.parametrize("act", ["remove", "disable"])
async def test_what_is_numbered_as_an_endpoint_goes_leaves_nothing_to_deliver(stage: Stage, act: str) -> None:
    made = await stage.register("https://pms.example/")
    event = NewEvent(uuid7(), stage.facility.id, EventKind.CHECK_DOCUMENT, uuid7(), stage.clock())
    connection = await stage.pools.database.connect("asm_sync")
    await events_store.append_events(connection, [event])
    numbering = connection.transaction()
    await numbering.start()
    last = await events_store.lock_head(connection)
    _, _, queued = await events_store.number_pending(connection, last, 10, stage.clock())
    assert queued == 1
    going = asyncio.create_task(getattr(await stage.endpoints(), act)(BOSS, UUID(made.id), stage.clock()))
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while not going.done() and not await stage.rows(waiting):
            await asyncio.sleep(0.005)
    await numbering.commit()
    await going
    assert await stage.rows("SELECT FROM webhook_deliveries") == []


async def test_neither_secret_nor_address_lies_open_in_the_database(stage: Stage) -> None:
    made = await stage.register("https://pms.example/hook/t0ken?key=s3cret")
    stored = str([dict(row) for row in await stage.rows("SELECT * FROM webhook_endpoints")])
    raw = base64.b64decode(made.secret.removeprefix("whsec_"))
    assert len(raw) == 32
    for secret in ("t0ken", "s3cret", made.secret[6:], raw.hex(), repr(raw)[2:-1]):
        assert secret not in stored
    assert (await stage.endpoint())["host"] == "pms.example"


@pytest.mark.parametrize("role", ["asm_auth", "asm_police", "asm_feeds", "asm_publish", "asm_guest", "asm_retention"])
async def test_other_logins_see_neither_events_nor_endpoints(pools: Pools, role: str) -> None:
    connection = await pools.database.connect(role)
    for table in ("owner_events", "webhook_endpoints", "webhook_deliveries", "webhook_failures"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"SELECT * FROM {table}")


async def test_a_new_month_seals_endpoints_anew_so_that_an_old_key_can_be_destroyed(
    stage: Stage, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> None:
    now = stage.clock()
    folder = tmp_path_factory.mktemp("keys") / "store"
    create_store(folder, [epoch_at(now), next_epoch(epoch_at(now))], now)
    stage.keyring = open_keyring(folder)
    made = await stage.register(receiver.url)
    rotated = await (await stage.endpoints()).rotate(BOSS, UUID(made.id), now)
    pool = await stage.pools.get("asm_sync")
    assert await webhooks.tend_once(pool, stage.keyring, 30, now) == {"resealed": 0, "failures": 0}
    month = (epoch_bounds(next_epoch(epoch_at(now)))[0].int >> 80) / 1000
    stage.clock.instant = type(now).fromtimestamp(month, now.tzinfo) + timedelta(days=2)
    assert await webhooks.tend_once(pool, stage.keyring, 30, stage.clock()) == {"resealed": 1, "failures": 0}
    assert await webhooks.tend_once(pool, stage.keyring, 30, stage.clock()) == {"resealed": 0, "failures": 0}
    row = await stage.endpoint()
    assert (row["sealed_epoch"], row["previous_until"]) == (next_epoch(epoch_at(now)), None)
    await stage.happens()
    assert await stage.deliver() == {"delivered": 1}
    assert receiver.messages[0].signed_by(rotated.secret)
    assert not receiver.messages[0].signed_by(made.secret)


# -- sending -----------------------------------------------------------------------------------------------------------


async def test_an_event_is_sent_once_signed_and_thin(stage: Stage, receiver: Receiver) -> None:
    made = await stage.register(receiver.url)
    event = await stage.happens()
    assert await stage.deliver() == {"delivered": 1}
    assert await stage.deliver() == {}
    [message] = receiver.messages
    assert message.signed_by(made.secret)
    assert message.id == str(event.event_id) == message.json["id"]
    assert abs(int(message.headers["webhook-timestamp"]) - stage.clock().timestamp()) < 1
    assert message.headers["content-type"] == "application/json"
    assert sorted(message.json) == ["data", "id", "timestamp", "type"]
    assert message.json["data"] == {
        "facility": stage.facility.code, "stay_id": str(event.stay_id), "expected_id": None,
        "link": f"{PUBLIC_URL}/v1/stays/{event.stay_id}",
    }  # fmt: skip


async def test_only_the_kinds_that_were_asked_for_are_sent(stage: Stage, receiver: Receiver) -> None:
    await stage.register(receiver.url, events=[EventType.REFUSED])
    await stage.happens(EventKind.DECLARED_LATE)
    refused = await stage.happens(EventKind.REFUSED)
    assert await stage.deliver() == {"delivered": 1}
    assert receiver.ids == [str(refused.event_id)]


async def test_what_failed_is_sent_again_later_under_the_same_id_with_a_new_time(
    stage: Stage, receiver: Receiver
) -> None:
    made = await stage.register(receiver.url)
    await stage.happens()
    receiver.status = 500
    assert await stage.deliver() == {"postponed": 1}
    assert await stage.deliver() == {}, "not before it is due"
    assert (await stage.endpoint())["failing_since"] == stage.clock()
    stage.clock.instant += LATER
    receiver.status = 200
    assert await stage.deliver() == {"delivered": 1}
    first, second = receiver.messages
    assert first.id == second.id
    assert first.body == second.body
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert first.signed_by(made.secret)
    assert second.signed_by(made.secret)
    assert (await stage.endpoint())["failing_since"] is None
    assert await stage.failures() == [("status_500", 1)]


async def test_the_waits_grow_up_to_three_days_and_then_the_delivery_is_given_up(
    stage: Stage, receiver: Receiver
) -> None:
    await stage.register(receiver.url)
    await stage.happens()
    start = stage.clock()
    receiver.status = 500
    waits, outcomes = [], []
    while rows := await stage.rows("SELECT due_at FROM webhook_deliveries"):
        waits.append((rows[0]["due_at"] - stage.clock()).total_seconds())
        rest_until = (await stage.endpoint())["rest_until"] or stage.clock()
        stage.clock.instant = max(rows[0]["due_at"], rest_until, stage.clock())
        outcomes += list(await stage.deliver(failing_hours=720))
    assert (set(outcomes[:-1]), outcomes[-1]) == ({"postponed"}, "given_up")
    assert timedelta(days=2) < stage.clock() - start < timedelta(days=3)
    assert 5 <= waits[1] <= 10
    assert 15 <= waits[2] <= 30
    assert max(waits) <= 12 * 3600
    assert 12 <= len(outcomes) <= 25


async def test_a_receiver_may_ask_for_time_but_not_for_ever(stage: Stage, receiver: Receiver) -> None:
    await stage.register(receiver.url)
    await stage.happens()
    receiver.status, receiver.headers = 429, {"Retry-After": "7200"}
    await stage.deliver()
    [row] = await stage.rows("SELECT due_at, last_code FROM webhook_deliveries")
    assert row["due_at"] == stage.clock() + timedelta(hours=2)
    stage.clock.instant += timedelta(hours=2)
    receiver.headers = {"Retry-After": "999999"}
    await stage.deliver()
    [row] = await stage.rows("SELECT due_at, last_code FROM webhook_deliveries")
    assert (row["due_at"], row["last_code"]) == (stage.clock() + timedelta(hours=6), "status_429")


async def test_gone_disables_at_once_and_what_waits_is_dropped(stage: Stage, receiver: Receiver) -> None:
    made = await stage.register(receiver.url)
    await stage.happens()
    await stage.happens()
    receiver.status = 410
    await stage.deliver()
    row = await stage.endpoint()
    assert (row["disabled_at"], row["disabled_code"]) == (stage.clock(), "gone")
    assert await stage.rows("SELECT FROM webhook_deliveries") == []
    await stage.happens()
    stage.clock.instant += LATER
    count = len(receiver.messages)
    assert await stage.deliver() == {}
    endpoints = await stage.endpoints()
    with pytest.raises(Refused, match="webhook_state"):
        await endpoints.test(BOSS, UUID(made.id), stage.clock())
    receiver.status = 204
    await endpoints.enable(BOSS, UUID(made.id), stage.clock())
    with pytest.raises(Refused, match="webhook_state"):
        await endpoints.enable(BOSS, UUID(made.id), stage.clock())
    after = await stage.happens()
    assert await stage.deliver() == {"delivered": 1}
    assert receiver.ids[count:] == [str(after.event_id)], "what happened meanwhile is to be pulled"
    assert await alerts_of(stage) == []


async def alerts_of(stage: Stage) -> list[alerts.Alert]:
    async with (await stage.pools.get("asm_sync")).acquire() as connection:
        return await alerts.list_alerts(connection, closed=False, limit=10)


async def test_an_endpoint_that_fails_for_days_is_disabled_and_the_operator_alerted_once(
    stage: Stage, receiver: Receiver
) -> None:
    made = await stage.register(receiver.url)
    await stage.happens()
    await stage.happens()
    receiver.status = 500
    await stage.deliver(failing_hours=24)
    assert await alerts_of(stage) == []
    stage.clock.instant += timedelta(hours=24)
    assert await stage.deliver(failing_hours=24) == {"disabled": 1}
    [alert] = await alerts_of(stage)
    assert (alert.kind, alert.subject, alert.occurrences) == ("webhook_disabled", made.id, 1)
    assert alert.details == {"last_code": "status_500", "failing_hours": 24}
    assert (await stage.endpoint())["disabled_code"] == "failing"
    assert await stage.rows("SELECT FROM webhook_deliveries") == []


async def test_a_daemon_that_dies_before_it_records_a_delivery_leaves_it_to_be_sent_again_under_the_same_id(
    stage: Stage, receiver: Receiver
) -> None:
    await stage.register(receiver.url)
    event = await stage.happens()
    dying = await stage.courier()
    receiver.gate.clear()
    task = asyncio.create_task(dying.deliver_once())
    await eventually(lambda: receiver.messages)
    task.cancel()  # the receiver has it, and nothing of that is recorded
    with pytest.raises(asyncio.CancelledError):
        await task
    receiver.gate.set()
    assert await stage.deliver() == {}, "it is claimed"
    stage.clock.instant += LEASE
    assert await stage.deliver() == {"delivered": 1}
    assert receiver.ids == [str(event.event_id)] * 2
    assert await stage.rows("SELECT FROM webhook_deliveries") == []


async def test_two_daemons_do_not_both_send_what_one_has_in_hand(stage: Stage, receiver: Receiver) -> None:
    await stage.register(receiver.url)
    made = [await stage.happens() for _ in range(6)]
    receiver.gate.clear()
    one, other = await stage.courier(), await stage.courier()
    first, second = asyncio.create_task(one.deliver_once()), asyncio.create_task(other.deliver_once())
    await eventually(lambda: len(receiver.messages) == len(made))
    receiver.gate.set()
    assert (await first)["delivered"] + (await second)["delivered"] == 6
    assert sorted(receiver.ids) == sorted(str(each.event_id) for each in made)


async def test_two_claims_at_the_same_moment_get_different_deliveries(stage: Stage, receiver: Receiver) -> None:
    await stage.register(receiver.url)
    made = {(await stage.happens()).event_id for _ in range(5)}
    one, other = [await stage.pools.database.connect("asm_sync") for _ in range(2)]
    now = stage.clock()
    held = one.transaction()
    await held.start()
    first = await store.claim_deliveries(one, now, now + LEASE, [], Room(3, 16, 256, 256))
    async with asyncio.timeout(20):  # it does not wait for the other
        second = await store.claim_deliveries(other, now, now + LEASE, [], Room(3, 16, 256, 256))
    await held.commit()
    assert (len(first), len(second)) == (3, 2)
    assert {each.event_id for each in (*first, *second)} == made
    assert await store.claim_deliveries(other, now, now + LEASE, [], Room(3, 16, 256, 256)) == []


async def test_a_late_failure_of_a_lost_claim_changes_nothing_that_another_daemon_did(
    stage: Stage, receiver: Receiver
) -> None:
    await stage.register(receiver.url)
    await stage.happens()
    slow = await stage.courier()
    receiver.gate.clear()
    receiver.status = 500
    task = asyncio.create_task(slow.deliver_once())
    await eventually(lambda: receiver.messages)
    stage.clock.instant += LEASE
    other = asyncio.create_task(stage.deliver())
    await eventually(lambda: len(receiver.messages) == 2)
    receiver.gate.set()
    outcomes = [*await task, *await other]
    assert sorted(outcomes) == ["overtaken", "postponed"]


async def test_one_slow_endpoint_holds_up_nobody(stage: Stage, receiver: Receiver) -> None:
    async with receiving() as slow:
        slow.gate.clear()
        await stage.register(slow.url)
        await stage.register(receiver.url)
        stop = asyncio.Event()
        courier = await stage.courier()
        for _ in range(20):
            await stage.happens()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(courier.run(stop))
            await eventually(lambda: len(receiver.messages) == 20)
            assert len(slow.messages) == webhooks.PER_ENDPOINT, "no more than these are in hand"
            stop.set()
        assert (await stage.rows("SELECT count(*) FROM webhook_deliveries"))[0]["count"] == 20


async def test_eight_owners_whose_endpoints_all_hang_hold_up_nobody_else(stage: Stage, receiver: Receiver) -> None:
    async with receiving() as slow:
        slow.gate.clear()
        for _ in range(8):
            owner = await principal(stage.pools, stage.clock, stage.facility)
            for _ in range(ENDPOINTS_LIMIT):
                await stage.register(slow.url, owner)
        for _ in range(webhooks.PER_ENDPOINT):
            await stage.happens()
        courier, stop = await stage.courier(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(courier.run(stop))
            await eventually(lambda: len(slow.messages) >= 8 * webhooks.PER_PRINCIPAL)
            await stage.register(receiver.url)
            made = [(await stage.happens()).event_id for _ in range(6)]
            await eventually(lambda: set(receiver.ids) >= set(map(str, made)))
            assert len(slow.messages) == 8 * webhooks.PER_PRINCIPAL, "no owner has more places than these"
            stop.set()


async def test_what_hangs_leaves_half_of_the_places_for_the_first_delivery_of_other_endpoints(stage: Stage) -> None:
    for _ in range(20):
        await stage.register("https://pms.example/", await principal(stage.pools, stage.clock, stage.facility))
    for _ in range(webhooks.PER_ENDPOINT):
        await stage.happens()
    connection, now = await stage.pools.database.connect("asm_sync"), stage.clock()
    first = await store.claim_deliveries(connection, now, now + LEASE, [], Room(4, 16, 5, 256))
    assert sorted(Counter(each.endpoint_id for each in first).values()) == [1] * 15 + [2] * 5
    late = await stage.register("https://pms.example/late")
    await stage.happens()
    owners = {row["id"]: row["principal_id"] for row in await stage.rows("SELECT * FROM webhook_endpoints")}
    busy = [Busy(id_, owners[id_], n) for id_, n in Counter(each.endpoint_id for each in first).items()]
    [other] = await store.claim_deliveries(connection, now, now + LEASE, busy, Room(4, 16, 0, 256))
    assert str(other.endpoint_id) == late.id


async def test_an_endpoint_that_fails_is_tried_with_one_event_at_a_time(stage: Stage, receiver: Receiver) -> None:
    await stage.register(receiver.url)
    receiver.status = 500
    for _ in range(6):
        await stage.happens()
    assert await stage.deliver() == {"postponed": 4}
    assert await stage.deliver() == {}, "it rests, although two are due"
    stage.clock.instant += timedelta(seconds=webhooks.REST_LONGEST_SECONDS)
    assert await stage.deliver() == {"postponed": 1}
    stage.clock.instant += LATER
    receiver.status = 200
    assert await stage.deliver() == {"delivered": 1}
    assert await stage.deliver() == {"delivered": 4}


async def test_an_endpoint_that_fails_is_left_in_peace_for_longer_and_longer_but_a_test_is_sent_soon(
    stage: Stage, receiver: Receiver
) -> None:
    made = await stage.register(receiver.url)
    receiver.status = 500
    for _ in range(12):
        await stage.happens()
    await stage.deliver()
    rests = []
    for _ in range(6):
        rest_until = (await stage.endpoint())["rest_until"]
        rests.append((rest_until - stage.clock()).total_seconds())
        stage.clock.instant = rest_until
        assert await stage.deliver() == {"postponed": 1}
    assert all(0 < rest <= webhooks.REST_LONGEST_SECONDS for rest in rests)
    assert rests[-1] >= webhooks.REST_LONGEST_SECONDS / 2
    assert await stage.deliver() == {}
    endpoints = await stage.endpoints()
    test = await endpoints.test(BOSS, UUID(made.id), stage.clock())
    assert await stage.deliver() == {}, "somebody who tests without a pause gets no attempt for each"
    assert await endpoints.test(BOSS, UUID(made.id), stage.clock()) == test
    recorded = await stage.rows("SELECT FROM audit_pending WHERE convert_from(body, 'UTF8') LIKE '%webhook.test%'")
    assert len(recorded) == 1, "the second changed nothing"
    stage.clock.instant += timedelta(seconds=webhooks.TEST_REST_SECONDS)
    receiver.status = 204
    while test.event_id not in receiver.ids:
        assert await stage.deliver() != {}, "a success ends the rest"


async def test_a_running_courier_survives_a_database_that_goes_away(stage: Stage, receiver: Receiver) -> None:
    await stage.register(receiver.url)
    courier, stop = await stage.courier(), asyncio.Event()
    superuser = await stage.pools.database.connect()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(courier.run(stop))
        await stage.happens()
        await eventually(lambda: len(receiver.messages) == 1)
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'asm_sync' AND datname = current_database()"
        )
        await eventually_happens(stage)
        await eventually(lambda: len(receiver.messages) >= 2)
        stop.set()


async def eventually_happens(stage: Stage) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await stage.happens()
            except (*LOST, asyncpg.PostgresError):
                continue
            return


# -- whose events ------------------------------------------------------------------------------------------------------


async def test_nobody_is_sent_what_happened_elsewhere(
    stage: Stage, receiver: Receiver, make_facility: FacilityMaker
) -> None:
    elsewhere = await make_facility("HY-KS-0002")
    stranger = await principal(stage.pools, stage.clock, elsewhere)
    await stage.register(receiver.url, stranger)
    await stage.happens()
    theirs = await stage.happens(facility=elsewhere)
    assert await stage.deliver() == {"delivered": 1}
    assert receiver.ids == [str(theirs.event_id)]


async def test_a_revoked_grant_stops_what_is_new_and_what_waits(stage: Stage, receiver: Receiver) -> None:
    await stage.register(receiver.url)
    receiver.status = 500
    await stage.happens()
    await stage.deliver()
    pool = await stage.pools.get("asm_auth")
    await directory.revoke_grant(pool, TESTER, stage.owner, stage.facility.code, stage.clock())
    await stage.happens()
    assert [row["attempts"] for row in await stage.rows("SELECT attempts FROM webhook_deliveries")] == [1]
    stage.clock.instant += LATER
    assert await stage.deliver() == {"withdrawn": 1}
    assert len(receiver.messages) == 1
    assert await stage.rows("SELECT FROM webhook_deliveries") == []


# -- tests and rotation ------------------------------------------------------------------------------------------------


async def test_a_test_goes_to_its_endpoint_only_and_one_waits_at_a_time(
    stage: Stage, receiver: Receiver, keyring: Keyring
) -> None:
    async with receiving() as other:
        made = await stage.register(receiver.url)
        await stage.register(other.url)
        endpoints = await stage.endpoints()
        first = await endpoints.test(BOSS, UUID(made.id), stage.clock())
        assert await endpoints.test(BOSS, UUID(made.id), stage.clock()) == first
        assert await stage.deliver() == {"delivered": 1}
        assert other.messages == []
    [message] = receiver.messages
    assert message.signed_by(made.secret)
    assert (message.id, message.json["type"]) == (first.event_id, "webhook.test")
    assert message.json["data"] == {"facility": None, "stay_id": None, "expected_id": None, "link": None}
    assert await endpoints.test(BOSS, UUID(made.id), stage.clock()) != first
    assert await stage.rows("SELECT FROM owner_events") == []


async def test_after_a_rotation_both_secrets_sign_for_a_day(stage: Stage, receiver: Receiver) -> None:
    made = await stage.register(receiver.url)
    rotated = await (await stage.endpoints()).rotate(BOSS, UUID(made.id), stage.clock())
    assert rotated.previous_valid_until == stage.clock() + timedelta(hours=24)
    await stage.happens()
    await stage.deliver()
    assert receiver.messages[0].signed_by(made.secret)
    assert receiver.messages[0].signed_by(rotated.secret)
    stage.clock.instant += timedelta(hours=24)
    await stage.happens()
    await stage.deliver()
    assert not receiver.messages[1].signed_by(made.secret)
    assert receiver.messages[1].signed_by(rotated.secret)


async def test_a_deleted_endpoint_leaves_nothing_behind(stage: Stage, receiver: Receiver) -> None:
    made = await stage.register(receiver.url)
    await stage.happens()
    receiver.status = 500
    await stage.deliver()
    await (await stage.endpoints()).remove(BOSS, UUID(made.id), stage.clock())
    for table in ("webhook_endpoints", "webhook_deliveries", "webhook_failures"):
        assert await stage.rows(f"SELECT FROM {table}") == []
    with pytest.raises(Refused, match="not_found"):
        await (await stage.endpoints()).remove(BOSS, UUID(made.id), stage.clock())


async def test_nothing_secret_is_logged_when_everything_fails(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    configure_logging("debug", DEPLOYMENT, stream)
    resolve_by(monkeypatch, unknown_name)
    made = await stage.register("https://pms.example/t0ken")
    await stage.happens()
    assert await stage.deliver() == {"postponed": 1}

    class Broken:
        async def post(self, *_arguments: object) -> None:
            raise aiohttp.ClientError(made.secret + "t0ken")

    courier, stop = await stage.courier(Broken()), asyncio.Event()
    stage.clock.instant += LATER
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(courier.run(stop))
        await eventually(lambda: b"webhooks.failed" in stream.getvalue())
        stop.set()
    structlog.reset_defaults()
    assert b"t0ken" not in stream.getvalue()
    assert made.secret.encode() not in stream.getvalue()


async def test_old_failures_are_forgotten(stage: Stage, receiver: Receiver) -> None:
    await stage.register(receiver.url)
    await stage.happens()
    receiver.status = 500
    await stage.deliver()
    async with (await stage.pools.get("asm_sync")).acquire() as connection:
        assert await store.erase_failures(connection, stage.clock()) == 0
        assert await store.erase_failures(connection, stage.clock() + timedelta(seconds=1)) == 1
