"""Who may speak for whom: facilities (cơ sở lưu trú), principals (chủ thể), their keys, grants, sessions and senders.

Every change is made by an operator and audited in its own transaction. `Gate` answers the question asked with each
request, "who is this, and for which facilities may they act?", from memory for at most `key_cache_seconds`.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
import structlog
from uuid_utils.compat import uuid7

from asm_daemon import audit
from asm_daemon.audit import AuditEntry
from asm_daemon.crypto import Keyring, Tampered, UnknownEpoch
from asm_daemon.model import Facility, Principal, PrincipalKind, Scope, Sender
from asm_daemon.problems import Refused
from asm_daemon.sealing import open_message_header
from asm_daemon.store import LOST, Connection, accounts, facilities, hospital
from asm_daemon.store.accounts import HeldKey, HeldSession, KeyFacts, TokenDigests
from asm_daemon.told import facility_digest
from schemas.codes import Department
from schemas.directory import NewFacility
from schemas.hospital import HospitalProfile
from schemas.violations import violation

KEY_VALID_DAYS_LIMIT = 366
ACCESS_VALID = timedelta(hours=1)
REFRESH_VALID = timedelta(hours=24)
SESSIONS_LIMIT = 1000  # of one key; the oldest make room
PAGE_LIMIT = 1000
_CACHED_LIMIT = 10_000  # keys, senders, and as many refusals, held in memory
_REFUSAL_SECONDS = 2.0  # how long an unknown key is remembered: enough against a loop, short for a correction
SENDER_FIELD_LIMIT = 227  # HD in HL7 v2.5: the longest MSH-3 or MSH-4

_KEY = re.compile(r"asm_([0-9a-f]{16})_([0-9a-f]{64})")
_TOKEN = re.compile(r"[0-9a-f]{64}")
_DEFAULT_SCOPES: Mapping[PrincipalKind, frozenset[Scope]] = {
    PrincipalKind.OWNER: frozenset(Scope),
    # Software that files on somebody's behalf needs no personal data back.
    PrincipalKind.VENDOR: frozenset({Scope.DECLARE, Scope.STATUS}),
}

log = structlog.get_logger()


class Actor(NamedTuple):
    """Who changes the directory: an operator (the principal's id, or the login at the command line), by a program that
    holds our keys: a row whose entry does not carry a tag of them is a fault of `keys verify --all`."""

    name: str
    keyring: Keyring


# ----------------------------------------------------------------------------------------------------------------------
# Entering and changing


async def add_facility(pool: asyncpg.Pool, actor: Actor, new: NewFacility, now: datetime) -> Facility:
    """Enter a facility. Refused `request_invalid` if its code is taken."""
    async with pool.acquire() as connection, connection.transaction():
        facility = await facilities.insert_facility(connection, new, now)
        if facility is None:
            raise _invalid("code_taken", "/code")
        await facilities.insert_turn(connection, facility.id)
        await _record(
            connection,
            actor,
            "facility.add",
            f"facility/{facility.code}",
            now,
            kind=new.kind.value,
            sandbox=new.sandbox,
            sha256=facility_digest(asdict(facility)),
        )
    return facility


async def facility_by_code(pool: asyncpg.Pool, code: str) -> Facility | None:
    """The facility of this code, or None."""
    async with pool.acquire() as connection:
        return await facilities.facility_by_code(connection, code)


async def list_facilities(pool: asyncpg.Pool, after_code: str = "", limit: int = PAGE_LIMIT) -> list[Facility]:
    """At most `limit` (≤ 1000) facilities after a code, ordered by code; the last code leads to the next page."""
    async with pool.acquire() as connection:
        return await facilities.list_facilities(connection, after_code, min(limit, PAGE_LIMIT))


async def assign_sender(
    pool: asyncpg.Pool,
    actor: Actor,
    sending_application: str,
    sending_facility: str,
    facility_code: str,
    now: datetime,
    *,
    profile: HospitalProfile | None = None,
    certificate_sha256: bytes | None = None,
) -> None:
    """Let the HL7 sender that calls itself by these two names (MSH-3, MSH-4) speak for a facility, and for no other.

    Its messages are read as `profile` says. With `certificate_sha256` it must show this client certificate. Refused
    `request_invalid` if a name is empty or too long, or the facility unknown.
    """
    if not all(map(_is_sender_name, (sending_application, sending_facility))):
        raise _invalid("out_of_range", "/sender", expected=f"1-{SENDER_FIELD_LIMIT}")
    profile = profile or HospitalProfile()
    async with pool.acquire() as connection, connection.transaction():
        facility = await _known_facility(connection, facility_code)
        await facilities.upsert_sender(
            connection, sending_application, sending_facility, facility.id, profile, certificate_sha256
        )
        details = {
            "application": sending_application,
            "facility": sending_facility,
            "overnight_classes": ",".join(profile.overnight_classes),
            "charset": profile.charset,
            "relative_role": profile.relative_role,
            "certificate": certificate_sha256.hex() if certificate_sha256 else None,
        }
        await _record(connection, actor, "sender.assign", f"facility/{facility.code}", now, **details)


async def list_senders(
    pool: asyncpg.Pool, after: tuple[str, str] = ("", ""), limit: int = PAGE_LIMIT
) -> list[tuple[str, str, Sender]]:
    """At most `limit` (≤ 1000) HL7 senders after these two names, in the order of their names."""
    async with pool.acquire() as connection:
        return await facilities.list_senders(connection, after, min(limit, PAGE_LIMIT))


class RefusedMessage(NamedTuple):
    """An HL7 message that was refused: what it called itself (MSH-3, MSH-4, MSH-10), and `reasons` as code and place.

    The names are empty where their key is gone.
    """

    received_at: datetime
    sending_application: str
    sending_facility: str
    control_id: str
    code: str
    reasons: list[str]
    times: int

    def __repr__(self) -> str:
        return "<RefusedMessage>"


async def refused_messages(
    pool: asyncpg.Pool, actor: Actor, now: datetime, limit: int = PAGE_LIMIT
) -> tuple[int, list[RefusedMessage]]:
    """How many HL7 messages are kept as refused, and the latest of them, at most `limit` (≤ 1000).

    On record, in the transaction that reads them: some hospitals build a message's id from their patient's number.
    """
    async with pool.acquire() as connection, connection.transaction():
        count = await hospital.count_refused(connection)
        found = await hospital.list_refused(connection, min(limit, PAGE_LIMIT))
        await _record(connection, actor, "sender.refused.list", "hl7_messages", now, count=len(found))
    return count, [_opened(actor.keyring, each) for each in found]


def _opened(keyring: Keyring, kept: hospital.RefusedMessage) -> RefusedMessage:
    try:
        sealed = kept.header_sealed
        names = open_message_header(keyring, kept.message_tag, kept.received_at, sealed) if sealed else ()
    except (Tampered, UnknownEpoch):
        names = ()
    application, facility, control_id = names or ("", "", "")
    return RefusedMessage(kept.received_at, application, facility, control_id, kept.code, kept.reasons, kept.times)


async def add_principal(
    pool: asyncpg.Pool,
    actor: Actor,
    kind: PrincipalKind,
    name: str,
    organisation: str,
    now: datetime,
    *,
    department: Department | None = None,
    principal_id: UUID | None = None,
) -> UUID:
    """Enter a principal and return its id, a new one unless `principal_id` gives it; a known id changes nothing.

    Refused `request_invalid` if `department` is named for another kind, or not named for a department.
    """
    if (kind is PrincipalKind.DEPARTMENT) != (department is not None):
        raise _invalid("department_only", "/department")
    principal_id = principal_id or uuid7()
    async with pool.acquire() as connection, connection.transaction():
        if await accounts.insert_principal(connection, principal_id, kind, name, organisation, department, now):
            what = {"kind": kind.value, "department": department.value if department else None}
            await _record(connection, actor, "principal.add", f"principal/{principal_id}", now, **what)
    return principal_id


async def create_key(
    pool: asyncpg.Pool, actor: Actor, principal_id: UUID, now: datetime, *, valid_days: int = KEY_VALID_DAYS_LIMIT
) -> str:
    """Make an API key, `asm_<id>_<secret>`, and return it: nobody can ever show it again.

    The secret has 256 random bits, so its SHA-256 is all that has to be kept (a slow hash protects what can be
    guessed). Refused `request_invalid` if the principal is unknown or `valid_days` is not 1 to 366.
    """
    if not 1 <= valid_days <= KEY_VALID_DAYS_LIMIT:
        raise _invalid("out_of_range", "/valid_days", expected=f"1-{KEY_VALID_DAYS_LIMIT}")
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    expires_at = now + timedelta(days=valid_days)
    async with pool.acquire() as connection, connection.transaction():
        await _lock_principal(connection, principal_id)
        await accounts.insert_key(connection, key_id, principal_id, _digest(secret), expires_at, now)
        # The hash of 256 random bits leads nowhere; without it a key could be exchanged for another of the same id.
        holder = {
            "principal": str(principal_id), "expires_at": expires_at.isoformat(), "secret_sha256": _digest(secret).hex()
        }  # fmt: skip
        await _record(connection, actor, "key.create", f"key/{key_id}", now, **holder)
    return f"asm_{key_id}_{secret}"


async def revoke_key(pool: asyncpg.Pool, actor: Actor, key_id: str, now: datetime) -> bool:
    """Revoke a key; False if none of this id is valid. A daemon may honour it for `key_cache_seconds` more."""
    async with pool.acquire() as connection, connection.transaction():
        principal_id = await accounts.revoke_key(connection, key_id, now)
        if principal_id is not None:
            await _record(connection, actor, "key.revoke", f"key/{key_id}", now, principal=str(principal_id))
    return principal_id is not None


async def revoke_keys_of(pool: asyncpg.Pool, actor: Actor, principal_id: UUID, now: datetime) -> int:
    """Revoke every key of a principal and return how many there were."""
    async with pool.acquire() as connection, connection.transaction():
        revoked = await accounts.revoke_keys_of(connection, principal_id, now)
        for key_id in revoked:
            await _record(connection, actor, "key.revoke", f"key/{key_id}", now, principal=str(principal_id))
    return len(revoked)


async def list_keys(pool: asyncpg.Pool, after_id: str = "", limit: int = PAGE_LIMIT) -> list[KeyFacts]:
    """At most `limit` (≤ 1000) keys after an id, ordered by id, revoked ones too."""
    async with pool.acquire() as connection:
        return await accounts.list_keys(connection, after_id, min(limit, PAGE_LIMIT))


async def grant(
    pool: asyncpg.Pool,
    actor: Actor,
    principal_id: UUID,
    facility_code: str,
    now: datetime,
    *,
    scopes: Collection[Scope] | None = None,
) -> None:
    """Grant `scopes` at a facility, in place of what was granted there before.

    None gives an owner everything, and a vendor `declare` and `status`: personal data back only when asked for. Refused
    `request_invalid` for an unknown principal or facility, for a kind that holds no grants, for no scope at all, and
    for a principal that would reach sandbox and real facilities at once.
    """
    async with pool.acquire() as connection, connection.transaction():
        kind = await _lock_principal(connection, principal_id)
        if kind not in _DEFAULT_SCOPES:
            raise _invalid("holds_no_grants", "/principal")
        chosen = _DEFAULT_SCOPES[kind] if scopes is None else frozenset(scopes)
        if not chosen:
            raise _invalid("required", "/scopes")
        facility = await _known_facility(connection, facility_code)
        if await accounts.holds_grants(connection, principal_id, sandbox=not facility.sandbox):
            raise _invalid("sandbox_and_real", "/facility")
        await accounts.upsert_grant(connection, principal_id, facility.id, chosen, now)
        given = {"principal": str(principal_id), "scopes": sorted(chosen)}
        await _record(connection, actor, "grant.give", f"facility/{facility.code}", now, **given)


async def revoke_grant(pool: asyncpg.Pool, actor: Actor, principal_id: UUID, facility_code: str, now: datetime) -> bool:
    """Withdraw a principal's grant at a facility; False if it holds none."""
    async with pool.acquire() as connection, connection.transaction():
        facility = await _known_facility(connection, facility_code)
        revoked = await accounts.revoke_grant(connection, principal_id, facility.id, now)
        if revoked:
            await _record(
                connection, actor, "grant.revoke", f"facility/{facility.code}", now, principal=str(principal_id)
            )
    return revoked


# ----------------------------------------------------------------------------------------------------------------------
# Sessions: for software that cannot show a key with each request


@dataclass(frozen=True, slots=True, repr=False)
class Tokens:
    """What the holder of a session shows: `access` until `expires_at`, `refresh` once, for new ones."""

    access: str
    refresh: str
    expires_at: datetime


async def open_session(pool: asyncpg.Pool, key_id: str, facility: Facility, now: datetime) -> Tokens:
    """Open a session for whoever has just shown this key, at a facility at which it holds a grant."""
    tokens, digests = _new_tokens(now)
    async with pool.acquire() as connection, connection.transaction():
        await accounts.insert_session(connection, key_id, facility.id, digests, now)
        await accounts.delete_spare_sessions(connection, key_id, SESSIONS_LIMIT, now)
    return tokens


async def renew_session(pool: asyncpg.Pool, refresh_token: str, now: datetime) -> Tokens:
    """New tokens in place of both old ones. Refused `unauthenticated` if the token was used, or its session ended."""
    tokens, digests = _new_tokens(now)
    if not _TOKEN.fullmatch(refresh_token):
        raise Refused("unauthenticated")
    async with pool.acquire() as connection:
        if not await accounts.replace_tokens(connection, _digest(refresh_token), digests, now):
            raise Refused("unauthenticated")
    return tokens


async def close_session(pool: asyncpg.Pool, access_token: str) -> None:
    """End the session of this token, if there is one. A daemon may honour it for `key_cache_seconds` more."""
    if _TOKEN.fullmatch(access_token):
        async with pool.acquire() as connection:
            await accounts.delete_session(connection, _digest(access_token))


def _new_tokens(now: datetime) -> tuple[Tokens, TokenDigests]:
    tokens = Tokens(secrets.token_hex(32), secrets.token_hex(32), now + ACCESS_VALID)
    digests = TokenDigests(_digest(tokens.access), _digest(tokens.refresh), tokens.expires_at, now + REFRESH_VALID)
    return tokens, digests


def _is_sender_name(name: str) -> bool:
    return 0 < len(name) <= SENDER_FIELD_LIMIT and name.isprintable()


async def _lock_principal(connection: Connection, principal_id: UUID) -> PrincipalKind:
    kind = await accounts.lock_principal(connection, principal_id)
    if kind is None:
        raise _invalid("unknown_principal", "/principal")
    return kind


async def _known_facility(connection: Connection, code: str) -> Facility:
    facility = await facilities.facility_by_code(connection, code)
    if facility is None:
        raise _invalid("unknown_facility", "/facility")
    return facility


async def _record(
    connection: Connection, actor: Actor, action: str, object_: str, now: datetime, **details: Any
) -> None:
    entry = AuditEntry(now, actor_kind="operator", actor=actor.name, action=action, object=object_, details=details)
    await audit.append_vouched(connection, actor.keyring, entry)


def _invalid(code: str, pointer: str, **limits: object) -> Refused:
    return Refused("request_invalid", violations=[violation(code, pointer, None, **limits)])


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("ascii")).digest()


# ----------------------------------------------------------------------------------------------------------------------
# Asking


def authorise(principal: Principal, facility_code: str | None, scope: Scope) -> Facility:
    """The facility for which this principal acts now. An owner of one facility need not name it.

    Refused `facility_required`; `facility_not_granted`, the same for a facility that is not granted and one that does
    not exist; `scope_missing`.
    """
    if facility_code is None:
        if principal.kind is not PrincipalKind.OWNER or len(principal.grants) > 1:
            raise Refused("facility_required")
        facility_code = next(iter(principal.grants), "")
    granted = principal.grants.get(facility_code)
    if granted is None:
        raise Refused("facility_not_granted")
    facility, scopes = granted
    if scope not in scopes:
        raise Refused("scope_missing")
    return facility


def facilities_within(principal: Principal, scope: Scope) -> tuple[Facility, ...]:
    """Every facility at which the principal holds `scope`, by code."""
    granted = sorted(principal.grants.items())
    return tuple(facility for _, (facility, scopes) in granted if scope in scopes)


class Gate:
    """Tells who is asking. Answers from memory for `cache_seconds`, then from the database, with one statement."""

    def __init__(self, pool: asyncpg.Pool, cache_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`pool` is of the login asm_auth; `clock` gives seconds that never go back."""
        self._pool = pool
        self._clock = clock
        self._tries: dict[tuple[UUID, str], _Tries] = {}
        refusal_seconds = min(_REFUSAL_SECONDS, cache_seconds)
        self._keys: _Remembered[str, HeldKey] = _Remembered(cache_seconds, refusal_seconds, clock)
        self._sessions: _Remembered[bytes, HeldSession] = _Remembered(cache_seconds, refusal_seconds, clock)
        self._senders: _Remembered[tuple[str, str], Sender] = _Remembered(cache_seconds, refusal_seconds, clock)

    async def authenticate(self, token: str, now: datetime) -> Principal:
        """The principal that holds the key `token`.

        Refused `unauthenticated` when it is unknown, wrong, expired or revoked, whichever it is; `unavailable` when
        that cannot be found out.
        """
        parts = _KEY.fullmatch(token)
        if parts is None:
            raise Refused("unauthenticated")
        key_id, secret = parts.groups()
        held = await self._held(key_id, now)
        if not hmac.compare_digest(held.secret_sha256, _digest(secret)):
            raise Refused("unauthenticated")
        return held.principal

    async def authenticate_session(self, access_token: str, now: datetime) -> tuple[Principal, str]:
        """The principal behind a session, and the code of the facility that the session is for.

        Refused `unauthenticated` when the session is unknown, has ended, or its key has; `unavailable`.
        """
        if not _TOKEN.fullmatch(access_token):
            raise Refused("unauthenticated")
        digest = _digest(access_token)
        session = await self._sessions.get(digest, lambda: self._ask(accounts.find_session, digest))
        if session is None or now >= session.expires_at:
            raise Refused("unauthenticated")
        return (await self._held(session.key_id, now)).principal, session.facility_code

    async def _held(self, key_id: str, now: datetime) -> HeldKey:
        held = await self._keys.get(key_id, lambda: self._ask(accounts.find_key, key_id))
        if held is None or now >= held.expires_at:
            raise Refused("unauthenticated")
        return held

    async def find_sender(self, sending_application: str, sending_facility: str) -> Sender | None:
        """The HL7 sender of these names (MSH-3, MSH-4), or None. Refused `unavailable`."""
        names = (sending_application, sending_facility)
        if not all(map(_is_sender_name, names)):
            return None
        return await self._senders.get(names, lambda: self._ask(facilities.find_sender, *names))

    async def record_refusal(self, principal: Principal, wanted: str, now: datetime) -> None:
        """Put on record that somebody asked for what others may do (`wanted`: method and pattern of the route).

        One entry a minute for each principal and route, for nothing can be removed from the audit: `times` counts what
        came since the entry before, this time included. What fails to be recorded is recorded with the next.
        """
        tries = self._tries.setdefault((principal.id, wanted), _Tries())
        tries.times += 1
        if self._clock() < tries.quiet_until:
            return
        times, before = tries.times, tries.quiet_until
        tries.times, tries.quiet_until = 0, self._clock() + REFUSALS_EVERY_SECONDS
        details = {"route": wanted, "times": times}
        entry = AuditEntry(now, principal.kind.value, str(principal.id), "access.refuse", details=details)
        try:
            async with self._pool.acquire(timeout=_ASK_SECONDS) as connection:
                await audit.append(connection, entry)
        except BaseException:
            tries.times, tries.quiet_until = tries.times + times, before
            raise
        while len(self._tries) > _CACHED_LIMIT:
            del self._tries[next(iter(self._tries))]

    async def _ask(self, question: Callable[..., Coroutine[Any, Any, _V | None]], *about: str | bytes) -> _V | None:
        try:
            async with self._pool.acquire(timeout=_ASK_SECONDS) as connection:
                return await question(connection, *about)
        except (asyncpg.PostgresError, *LOST) as error:
            log.warning("directory.database_away", exc_info=error)
            raise Refused("unavailable", retry_after_seconds=1) from None


_ASK_SECONDS = 5.0
REFUSALS_EVERY_SECONDS = 60.0


@dataclass(slots=True)
class _Tries:
    """How often somebody tried one route since it was last put on record, and until when it is only counted."""

    times: int = 0
    quiet_until: float = float("-inf")


_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class _Answer(Generic[_V]):
    value: _V | None = field(repr=False)
    until: float


class _Remembered(Generic[_K, _V]):
    """Answers kept for a while. What was found and what was not have each their own bounded place, so that guessing
    unknown keys cannot push the known ones out; who asks for what is being fetched waits for it."""

    def __init__(self, found_seconds: float, missing_seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = {True: found_seconds, False: missing_seconds}
        self._clock = clock
        self._kept: dict[bool, dict[_K, _Answer[_V]]] = {True: {}, False: {}}
        self._fetching: dict[_K, asyncio.Task[_V | None]] = {}

    async def get(self, key: _K, fetch: Callable[[], Coroutine[Any, Any, _V | None]]) -> _V | None:
        """The remembered answer, or else what `fetch` says; its errors are not remembered."""
        for kept in self._kept.values():
            answer = kept.get(key)
            if answer is not None and self._clock() < answer.until:
                return answer.value
        task = self._fetching.get(key)
        if task is None:
            task = self._fetching[key] = asyncio.create_task(self._fetch(key, fetch))
            task.add_done_callback(lambda done: self._fetched(key, done))
        return await asyncio.shield(task)  # one caller who hangs up must not take the answer from the others

    def _fetched(self, key: _K, task: asyncio.Task[_V | None]) -> None:
        del self._fetching[key]
        if not task.cancelled():
            task.exception()  # looked at, in case everybody who waited has hung up

    async def _fetch(self, key: _K, fetch: Callable[[], Coroutine[Any, Any, _V | None]]) -> _V | None:
        asked_at = self._clock()  # before the statement: a revocation that it just missed counts from here
        value = await fetch()
        found = value is not None
        self._kept[not found].pop(key, None)
        kept = self._kept[found]
        kept.pop(key, None)  # so that the order of `kept` is the order of age
        while len(kept) >= _CACHED_LIMIT:
            del kept[next(iter(kept))]
        kept[key] = _Answer(value, asked_at + self._seconds[found])
        return value
