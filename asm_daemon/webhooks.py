"""Sending events to where owners want them (webhook), as Standard Webhooks 1.0.0 says (www.standardwebhooks.com).

What is to be sent is a row until it was taken (2xx), refused for good (410), or has waited three days. At least once,
in no promised order; whatever is sent again carries the same id. No transaction is open during a request.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import random
import re
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, ip_address
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import orjson
import structlog
from prometheus_client import Counter as Metric
from uuid_utils.compat import uuid7

from asm_daemon import audit
from asm_daemon.crypto import Keyring, RecordName, Tampered, UnknownEpoch, epoch_at
from asm_daemon.events import document
from asm_daemon.model import Principal, PrincipalKind
from asm_daemon.problems import Refused
from asm_daemon.store import LOST, Connection
from asm_daemon.store import webhooks as store
from asm_daemon.store.alerts import AlertKind, raise_alert
from asm_daemon.store.webhooks import Busy, Delivery, EndpointFacts, EndpointRow, Room
from schemas.addresses import Address, Network, is_public
from schemas.violations import violation
from schemas.webhooks import (
    ENDPOINTS_LIMIT,
    EventType,
    NewWebhook,
    NotDelivered,
    Webhook,
    WebhookFailure,
    Webhooks,
    WebhookSecret,
    WebhookTest,
)

SECRET_BYTES = 32
SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret begins with
OVERLAP = timedelta(hours=24)
"""For how long after a rotation the previous secret signs as well."""
IN_HAND, PER_ENDPOINT, PER_PRINCIPAL = 256, 4, 16
"""How many deliveries one process attempts at a time, and how many of them to one endpoint (to one that fails, one) and
to all endpoints of one principal."""
BESIDE = 128
"""How many of them may go to endpoints that have one in hand already: half of the places are for the first of each."""
LEASE = timedelta(seconds=60)
"""After this a claimed delivery is due again: longer than an attempt may take, and its recording."""
BACKOFF_FIRST_SECONDS, BACKOFF_FACTOR, BACKOFF_LONGEST_SECONDS = 10.0, 3.0, 12 * 3600.0
REST_LONGEST_SECONDS, TEST_REST_SECONDS = 300.0, 10.0
"""An endpoint that fails rests as a delivery waits, but no longer than this: so it is found that it is well again."""
GIVEN_UP_AFTER = timedelta(days=3)
RETRY_AFTER_LIMIT_SECONDS = 6 * 3600.0
POLL_SECONDS, GATHER_SECONDS = 1.0, 0.02
"""How often is looked for what is due, and how long is waited after an attempt has ended, for others to end too."""
SHUTDOWN_SECONDS = 2.0
"""How long attempts in hand may go on at the end."""
LIST_LIMIT = 1000
_GONE = "status_410"
_NUMERIC = re.compile(r"[0-9a-fx.]+", re.ASCII | re.IGNORECASE)

DELIVERIES = Metric("asm_webhook_deliveries", "Attempts to deliver an event", ["outcome"])

log = structlog.get_logger()


class Sender(Protocol):
    """The client that posts (`connectors.webhooks.client`)."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Post once. Raises `NotDelivered` unless it was answered with a 2xx."""


# -- signing -----------------------------------------------------------------------------------------------------------


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The symmetric signature of Standard Webhooks: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`."""
    signed = hmac.digest(secret, b"%s.%d." % (message_id.encode("ascii"), timestamp) + body, "sha256")
    return f"v1,{base64.b64encode(signed).decode('ascii')}"


def signed_headers(secrets: Sequence[bytes], message_id: str, now: datetime, body: bytes) -> dict[str, str]:
    """The headers of one attempt; with several secrets, a signature by each."""
    timestamp = int(now.timestamp())
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(secret, message_id, timestamp, body) for secret in secrets),
    }


# -- what is sealed of an endpoint -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class _Address:
    """Where an endpoint is, and what its messages are signed with."""

    url: str
    secret: bytes
    previous: bytes | None = None


def _name(endpoint_id: UUID, epoch: int, version: int) -> RecordName:
    return RecordName("webhook", epoch, 0, endpoint_id, 1, version)


def _seal(keyring: Keyring, endpoint_id: UUID, epoch: int, version: int, address: _Address) -> bytes:
    """Raises `Refused` unavailable when this month has no key."""
    members = {
        "url": address.url,
        "secret": base64.b64encode(address.secret).decode(),
        "previous": None if address.previous is None else base64.b64encode(address.previous).decode(),
    }
    try:
        return keyring.seal(_name(endpoint_id, epoch, version), orjson.dumps(members))
    except UnknownEpoch:
        raise Refused("unavailable", retry_after_seconds=60) from None


def _open(keyring: Keyring, row: EndpointRow) -> _Address | None:
    """None if it cannot be opened any more."""
    try:
        members = orjson.loads(keyring.open(_name(row.id, row.sealed_epoch, row.version), row.sealed))
    except (Tampered, UnknownEpoch):
        return None
    previous = members["previous"]
    return _Address(
        members["url"], base64.b64decode(members["secret"]), None if previous is None else base64.b64decode(previous)
    )


def _shown(secret: bytes) -> str:
    return SECRET_PREFIX + base64.b64encode(secret).decode()


# -- endpoints, for their owners and for operators ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Actor:
    """Who manages endpoints: an owner only their own (`principal_id`), an operator (None) anybody's."""

    kind: str
    name: str
    principal_id: UUID | None

    @classmethod
    def of(cls, principal: Principal) -> Actor:
        """An owner or vendor."""
        return cls(principal.kind.value, str(principal.id), principal.id)

    @classmethod
    def operator(cls, name: str) -> Actor:
        """Who is at the command line."""
        return cls(PrincipalKind.OPERATOR.value, name, None)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The directory of endpoints. `pool` connects as asm_intake; `plain_http` allows http addresses, for trials;
    `networks` may be sent to although they are not public."""

    pool: asyncpg.Pool
    keyring: Keyring
    plain_http: bool
    networks: Sequence[Network] = ()

    async def add(self, actor: Actor, principal_id: UUID, new: NewWebhook, now: datetime) -> WebhookSecret:
        """Register an endpoint and return its secret, which nobody can show again.

        Refused `request_invalid`: http where it is not allowed, an address that nothing would be sent to, too many
        endpoints, an unknown principal. What a name leads to is looked at when something is sent.
        """
        parts = urlsplit(new.url)
        if parts.scheme != "https" and not self.plain_http:
            raise _invalid("wrong_format", "/url", expected="https://…")
        address = _literal(parts.hostname or "")
        if address is not None and not is_public(address) and not any(address in each for each in self.networks):
            raise _invalid("address_not_public", "/url")
        secret = os.urandom(SECRET_BYTES)
        endpoint_id, epoch = uuid7(), epoch_at(now)
        kinds = tuple(dict.fromkeys(each.value for each in new.events or EventType))
        sealed = _seal(self.keyring, endpoint_id, epoch, 1, _Address(new.url, secret))
        row = EndpointRow(
            endpoint_id, principal_id, parts.hostname or "", kinds, epoch, 1, sealed, None, now, None, None, None
        )
        async with self.pool.acquire() as connection, connection.transaction(isolation="read_committed"):
            if not await store.may_own_endpoints(connection, principal_id):
                raise _invalid("unknown_principal", "/principal")
            while (place := await store.free_place(connection, principal_id, ENDPOINTS_LIMIT)) is not None:
                if await store.insert_endpoint(connection, row, place):
                    break
            else:
                raise _invalid("too_many_webhooks", "/url", limit=ENDPOINTS_LIMIT)
            await _record(connection, actor, "webhook.add", endpoint_id, now, principal=str(principal_id))
        return WebhookSecret(id=str(endpoint_id), secret=_shown(secret))

    async def list_own(self, principal_id: UUID) -> Webhooks:
        """A principal's endpoints, with what waits and how they failed lately."""
        async with self.pool.acquire() as connection:
            rows = await store.list_endpoints(connection, principal_id)
            ids = [row.id for row in rows]
            waiting = await store.count_waiting(connection, ids)
            failures = await store.list_failures(connection, ids)
        return Webhooks(
            webhooks=[
                Webhook(
                    id=str(row.id),
                    url=address.url if (address := _open(self.keyring, row)) else None,
                    events=[EventType(kind) for kind in row.kinds],
                    created_at=row.created_at,
                    waiting=waiting.get(row.id, 0),
                    failing_since=row.failing_since,
                    disabled_at=row.disabled_at,
                    disabled_code=row.disabled_code,
                    failures=[
                        WebhookFailure(code=each.code, failures=each.failures, last_at=each.last_at)
                        for each in failures
                        if each.endpoint_id == row.id
                    ],
                )
                for row in rows
            ]
        )

    async def list_all(self) -> list[EndpointFacts]:
        """At most 1000 endpoints, those that are disabled or fail first."""
        async with self.pool.acquire() as connection:
            return await store.list_all(connection, LIST_LIMIT)

    async def remove(self, actor: Actor, endpoint_id: UUID, now: datetime) -> None:
        """Forget an endpoint and what waits for it. Refused not_found."""
        async with self.pool.acquire() as connection, connection.transaction(isolation="read_committed"):
            await self._locked(connection, actor, endpoint_id)
            await store.delete_endpoint(connection, endpoint_id)
            await _record(connection, actor, "webhook.remove", endpoint_id, now)

    async def rotate(self, actor: Actor, endpoint_id: UUID, now: datetime) -> WebhookSecret:
        """A new secret; for `OVERLAP` messages are signed with both. Refused not_found, record_unreadable."""
        secret, epoch, until = os.urandom(SECRET_BYTES), epoch_at(now), now + OVERLAP
        async with self.pool.acquire() as connection, connection.transaction():
            row = await self._locked(connection, actor, endpoint_id)
            address = _open(self.keyring, row)
            if address is None:
                raise Refused("record_unreadable")
            changed = _Address(address.url, secret, address.secret)
            sealed = _seal(self.keyring, row.id, epoch, row.version + 1, changed)
            await store.reseal_endpoint(connection, row.id, epoch, row.version + 1, sealed, until)
            await _record(connection, actor, "webhook.rotate", endpoint_id, now)
        return WebhookSecret(id=str(endpoint_id), secret=_shown(secret), previous_valid_until=until)

    async def enable(self, actor: Actor, endpoint_id: UUID, now: datetime) -> None:
        """Send again what happens from now on. Refused not_found, webhook_state (it is not disabled)."""
        async with self.pool.acquire() as connection, connection.transaction():
            await self._locked(connection, actor, endpoint_id)
            if not await store.enable_endpoint(connection, endpoint_id):
                raise Refused("webhook_state")
            await _record(connection, actor, "webhook.enable", endpoint_id, now)

    async def disable(self, actor: Actor, endpoint_id: UUID, now: datetime) -> None:
        """Let an operator stop what is sent. Refused not_found, webhook_state (it is disabled already)."""
        async with self.pool.acquire() as connection, connection.transaction(isolation="read_committed"):
            await self._locked(connection, actor, endpoint_id)
            if not await store.disable_endpoint(connection, endpoint_id, "operator", now):
                raise Refused("webhook_state")
            await _record(connection, actor, "webhook.disable", endpoint_id, now)

    async def test(self, actor: Actor, endpoint_id: UUID, now: datetime) -> WebhookTest:
        """Queue a test; while one waits, that one. Who tests wants to know soon: a rest is cut short, to no less than
        `TEST_REST_SECONDS`, however often it is asked for. What changes nothing is not recorded.

        Refused not_found, webhook_state (the endpoint is disabled).
        """
        event_id, rest_until = uuid7(), now + timedelta(seconds=TEST_REST_SECONDS)
        async with self.pool.acquire() as connection, connection.transaction():
            row = await self._locked(connection, actor, endpoint_id)
            if row.disabled_at is not None:
                raise Refused("webhook_state")
            queued = await store.queue_test(connection, endpoint_id, event_id, now)
            shortened = await store.shorten_rest(connection, endpoint_id, rest_until)
            if queued == event_id or shortened:
                await _record(connection, actor, "webhook.test", endpoint_id, now)
        return WebhookTest(event_id=str(queued))

    async def _locked(self, connection: Connection, actor: Actor, endpoint_id: UUID) -> EndpointRow:
        row = await store.lock_endpoint(connection, endpoint_id, actor.principal_id)
        if row is None:
            raise Refused("not_found")
        return row


async def _record(
    connection: Connection, actor: Actor, action: str, endpoint_id: UUID, now: datetime, **details: str
) -> None:
    entry = audit.AuditEntry(
        at=now, actor_kind=actor.kind, actor=actor.name, action=action, object=f"webhook/{endpoint_id}", details=details
    )
    await audit.append(connection, entry)


def _literal(host: str) -> Address | None:
    """The address that a host is, also in the short forms that resolvers take (127.1, 2130706433); None for a name."""
    with suppress(ValueError):
        return ip_address(host.partition("%")[0])
    with suppress(OSError):
        return IPv4Address(socket.inet_aton(host)) if _NUMERIC.fullmatch(host) else None
    return None


def _invalid(code: str, pointer: str, **limits: object) -> Refused:
    return Refused("request_invalid", violations=[violation(code, pointer, None, **limits)])


async def tend_once(pool: asyncpg.Pool, keyring: Keyring, failures_kept_days: int, now: datetime) -> dict[str, int]:
    """Seal anew what is sealed under an earlier month's key, which will be destroyed one day, and forget old failures.

    A previous secret that signs no more is dropped thereby. `pool` connects as asm_sync.
    """
    epoch, resealed = epoch_at(now), 0
    async with pool.acquire() as connection:
        while rows := await store.list_sealed_before(connection, epoch, LIST_LIMIT):
            done = 0
            for row in rows:
                address = _open(keyring, row)
                if address is None:
                    continue  # its owner sees that it has to be registered anew
                still = row.previous_until is not None and row.previous_until > now
                kept = address if still else _Address(address.url, address.secret)
                sealed = _seal(keyring, row.id, epoch, row.version + 1, kept)
                until = row.previous_until if still else None
                done += await store.reseal_endpoint(connection, row.id, epoch, row.version + 1, sealed, until)
            resealed += done
            if not done:
                break
        erased = await store.erase_failures(connection, now - timedelta(days=failures_kept_days))
    return {"resealed": resealed, "failures": erased}


# -- sending -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How one attempt ended: None, or the code of its failure."""

    code: str | None = None
    retry_after_seconds: float | None = None


class Courier:
    """Sends what is due, from this process. `pool` connects as asm_sync; of it one connection at a time is used.

    An endpoint that fails for `failing_hours` without a success is disabled, and the operator is alerted.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        keyring: Keyring,
        sender: Sender,
        public_url: str,
        *,
        now: Callable[[], datetime],
        failing_hours: int,
    ) -> None:
        self._pool = pool
        self._keyring = keyring
        self._sender = sender
        self._public_url = public_url
        self._now = now
        self._failing = timedelta(hours=failing_hours)
        self._one_connection = asyncio.Lock()
        self._in_hand: Counter[tuple[UUID, UUID]] = Counter()  # of each endpoint and its principal
        self._news = asyncio.Event()

    async def deliver_once(self) -> dict[str, int]:
        """Attempt one page of what is due, and return what became of it: delivered, postponed, given_up, withdrawn,
        disabled, overtaken (somebody else has it in hand)."""
        counts: Counter[str] = Counter()
        claimed = await self._claim()
        async with asyncio.TaskGroup() as tasks:
            attempts = [tasks.create_task(self._attempt(delivery, row)) for delivery, row in claimed]
        for attempt in attempts:
            counts[attempt.result()] += 1
        return dict(counts)

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop`. What is in hand then and does not end in a moment is cut off, and due again when its
        claim runs out."""
        try:
            async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._end(stop, deadline))
                while not stop.is_set():
                    for delivery, row in await self._claim_if_possible():
                        tasks.create_task(self._attend(delivery, row))
                    await self._wait()
        except TimeoutError:
            log.warning("webhooks.cut_short", count=self._in_hand.total())

    async def _end(self, stop: asyncio.Event, deadline: asyncio.Timeout) -> None:
        """Let all that is in hand end soon, the look at a database that says nothing included."""
        await stop.wait()
        deadline.reschedule(asyncio.get_running_loop().time() + SHUTDOWN_SECONDS)
        self._news.set()

    async def _wait(self) -> None:
        """Until a place is free again, a moment has passed, or the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._news.wait()
                await asyncio.sleep(GATHER_SECONDS)
        self._news.clear()

    async def _claim_if_possible(self) -> list[tuple[Delivery, EndpointRow]]:
        try:
            return await self._claim()
        except LOST as error:
            log.warning("webhooks.database_away", exc_info=error)
        except Exception:  # the top of a loop: the next look may succeed
            log.exception("webhooks.failed")
        return []

    async def _attend(self, delivery: Delivery, row: EndpointRow) -> None:
        try:
            await self._attempt(delivery, row)
        except LOST as error:  # it is due again when its claim runs out
            log.warning("webhooks.database_away", exc_info=error)
        except Exception:  # the top of a loop: one delivery must not end the others
            log.exception("webhooks.failed")
        self._news.set()

    async def _claim(self) -> list[tuple[Delivery, EndpointRow]]:
        now = self._now()
        busy = [Busy(*whose, in_hand) for whose, in_hand in self._in_hand.items()]
        total = self._in_hand.total()
        room = Room(PER_ENDPOINT, PER_PRINCIPAL, max(0, BESIDE - (total - len(busy))), IN_HAND - total)
        if room.places <= 0:
            return []
        async with self._one_connection, self._pool.acquire() as connection:
            claimed = await store.claim_deliveries(connection, now, now + LEASE, busy, room)
            ids = {each.endpoint_id for each in claimed}
            rows = {row.id: row for row in await store.read_endpoints(connection, list(ids))} if ids else {}
        chosen = [(each, rows[each.endpoint_id]) for each in claimed if each.endpoint_id in rows]
        self._in_hand.update((row.id, row.principal_id) for _, row in chosen)
        return chosen

    async def _attempt(self, delivery: Delivery, row: EndpointRow) -> str:
        try:
            if not delivery.granted:
                outcome = await self._withdraw(delivery)
            else:
                outcome = await self._record(delivery, await self._post(delivery, row))
            DELIVERIES.labels(outcome).inc()
            return outcome
        finally:
            self._in_hand -= Counter([(row.id, row.principal_id)])

    async def _post(self, delivery: Delivery, row: EndpointRow) -> _Outcome:
        address = _open(self._keyring, row)
        if address is None:
            return _Outcome("unreadable_secret")
        now = self._now()
        event = document(
            delivery.event_id, delivery.kind, delivery.at, delivery.facility_code, delivery.stay_id,
            delivery.expected_id, self._public_url,
        )  # fmt: skip
        body = event.model_dump_json().encode()
        secrets = [address.secret]
        if address.previous is not None and row.previous_until is not None and now < row.previous_until:
            secrets.append(address.previous)
        try:
            await self._sender.post(address.url, signed_headers(secrets, event.id, now, body), body)
        except NotDelivered as failure:
            return _Outcome(failure.code, failure.retry_after_seconds)
        return _Outcome()

    async def _withdraw(self, delivery: Delivery) -> str:
        async with self._one_connection, self._pool.acquire() as connection:
            await store.finish_delivery(connection, delivery)
        return "withdrawn"

    async def _record(self, delivery: Delivery, attempt: _Outcome) -> str:
        now = self._now()
        async with (
            self._one_connection,
            self._pool.acquire() as connection,
            connection.transaction(isolation="read_committed"),
        ):
            if attempt.code is None:
                await store.note_success(connection, delivery.endpoint_id)
                await store.finish_delivery(connection, delivery)
                return "delivered"
            failing = await store.note_failure(connection, delivery.endpoint_id, attempt.code, now)
            if failing is None:
                return "overtaken"  # the endpoint is gone, and all that waited for it
            if attempt.code == _GONE:
                await store.disable_endpoint(connection, delivery.endpoint_id, "gone", now)
                return "disabled"
            if now - failing.since >= self._failing:
                await self._give_up_endpoint(connection, delivery, attempt.code, failing.since, now)
                return "disabled"
            rest_seconds = _grown_seconds(failing.attempts, REST_LONGEST_SECONDS, attempt.retry_after_seconds)
            await store.rest_endpoint(connection, delivery.endpoint_id, now + timedelta(seconds=rest_seconds))
            due_at = now + timedelta(
                seconds=_grown_seconds(delivery.attempts, BACKOFF_LONGEST_SECONDS, attempt.retry_after_seconds)
            )
            if due_at > delivery.queued_at + GIVEN_UP_AFTER:
                await store.finish_delivery(connection, delivery)
                return "given_up"
            postponed = await store.postpone_delivery(connection, delivery, due_at, attempt.code)
            return "postponed" if postponed else "overtaken"

    async def _give_up_endpoint(
        self, connection: Connection, delivery: Delivery, code: str, since: datetime, now: datetime
    ) -> None:
        if await store.disable_endpoint(connection, delivery.endpoint_id, "failing", now):
            hours = int((now - since).total_seconds() // 3600)
            details: dict[str, int | str] = {"last_code": code, "failing_hours": hours}
            await raise_alert(connection, AlertKind.WEBHOOK_DISABLED, str(delivery.endpoint_id), details, now)


def _grown_seconds(attempts: int, longest: float, retry_after_seconds: float | None) -> float:
    """A random time from half of what triples with each attempt, up to all of it; or as the receiver asked."""
    grown = min(BACKOFF_FIRST_SECONDS * BACKOFF_FACTOR ** min(attempts - 1, 16), longest)
    seconds = random.uniform(grown / 2, grown)  # noqa: S311 - not a secret
    if retry_after_seconds is not None:
        seconds = max(seconds, min(retry_after_seconds, RETRY_AFTER_LIMIT_SECONDS))
    return seconds
