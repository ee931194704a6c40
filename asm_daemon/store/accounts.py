"""SQL of the accounts: principals, their API keys and their grants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from asm_daemon.model import Principal, PrincipalKind, Scope
from asm_daemon.store import Connection
from asm_daemon.store.facilities import facility
from schemas.codes import Department


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key that is not revoked, with its principal. `secret_sha256` is all that is known of the secret."""

    secret_sha256: bytes = field(repr=False)
    expires_at: datetime
    principal: Principal


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One key as an operator sees it."""

    id: str
    principal_id: UUID
    kind: PrincipalKind
    name: str = field(repr=False)
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


async def insert_principal(
    connection: Connection,
    principal_id: UUID,
    kind: PrincipalKind,
    name: str,
    organisation: str,
    department: Department | None,
    now: datetime,
) -> bool:
    """Enter a principal; False, changing nothing, if the id is known."""
    row = await connection.fetchrow(
        """
        INSERT INTO principals (id, kind, name, organisation, department, created_at)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING RETURNING id
        """,
        principal_id,
        kind.value,
        name,
        organisation,
        department and department.value,
        now,
    )
    return row is not None


async def lock_principal(connection: Connection, principal_id: UUID) -> PrincipalKind | None:
    """The kind of an active principal, locked so that changes of its grants take turns; None if there is none."""
    kind = await connection.fetchval(
        "SELECT kind FROM principals WHERE id = $1 AND active FOR NO KEY UPDATE", principal_id
    )
    return None if kind is None else PrincipalKind(kind)


async def insert_key(
    connection: Connection,
    key_id: str,
    principal_id: UUID,
    secret_sha256: bytes,
    expires_at: datetime,
    now: datetime,
) -> None:
    """Keep what is needed to recognise a new key."""
    await connection.execute(
        """
        INSERT INTO api_keys (id, principal_id, secret_sha256, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
        """,
        key_id,
        principal_id,
        secret_sha256,
        now,
        expires_at,
    )


async def revoke_key(connection: Connection, key_id: str, now: datetime) -> UUID | None:
    """Revoke a key and return its principal; None if there is no such key, or it was revoked before."""
    principal_id: UUID | None = await connection.fetchval(
        "UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING principal_id", key_id, now
    )
    return principal_id


async def revoke_keys_of(connection: Connection, principal_id: UUID, now: datetime) -> list[str]:
    """Revoke every key of a principal and return the ids of those that were valid until now."""
    rows = await connection.fetch(
        "UPDATE api_keys SET revoked_at = $2 WHERE principal_id = $1 AND revoked_at IS NULL RETURNING id",
        principal_id,
        now,
    )
    return [row["id"] for row in rows]


async def list_keys(connection: Connection, after_id: str, limit: int) -> list[KeyFacts]:
    """At most `limit` keys whose id sorts after `after_id` ("" = from the start), revoked ones too, by id."""
    rows = await connection.fetch(
        """
        SELECT k.id, p.id AS principal_id, p.kind, p.name, k.created_at, k.expires_at, k.revoked_at
        FROM api_keys k JOIN principals p ON p.id = k.principal_id
        WHERE k.id > $1 ORDER BY k.id LIMIT $2
        """,
        after_id,
        limit,
    )
    return [KeyFacts(**{**row, "kind": PrincipalKind(row["kind"])}) for row in rows]


async def upsert_grant(
    connection: Connection, principal_id: UUID, facility_id: int, scopes: Iterable[Scope], now: datetime
) -> None:
    """Grant exactly these scopes at the facility, in place of what was granted there before."""
    await connection.execute(
        """
        INSERT INTO grants (principal_id, facility_id, scopes, granted_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (principal_id, facility_id)
        DO UPDATE SET scopes = EXCLUDED.scopes, granted_at = EXCLUDED.granted_at, revoked_at = NULL
        """,
        principal_id,
        facility_id,
        sorted(scope.value for scope in scopes),
        now,
    )


async def revoke_grant(connection: Connection, principal_id: UUID, facility_id: int, now: datetime) -> bool:
    """Withdraw a grant; False if there is none."""
    row = await connection.fetchrow(
        """
        UPDATE grants SET revoked_at = $3 WHERE principal_id = $1 AND facility_id = $2 AND revoked_at IS NULL
        RETURNING facility_id
        """,
        principal_id,
        facility_id,
        now,
    )
    return row is not None


async def holds_grants(connection: Connection, principal_id: UUID, *, sandbox: bool) -> bool:
    """Whether the principal holds a grant for a sandbox facility, or for a real one."""
    found: bool = await connection.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM grants g JOIN facilities f ON f.id = g.facility_id
            WHERE g.principal_id = $1 AND g.revoked_at IS NULL AND f.sandbox = $2)
        """,
        principal_id,
        sandbox,
    )
    return found


async def find_key(connection: Connection, key_id: str) -> HeldKey | None:
    """The key with everything its principal may do; None if unknown or revoked, or the principal is not active.

    A closed facility takes no declarations, but the receipts of the past stay readable: its grants lose `declare`.
    """
    rows = await connection.fetch(
        """
        SELECT k.secret_sha256, k.expires_at,
               p.id AS principal_id, p.kind AS principal_kind, p.name AS principal_name, p.organisation, p.department,
               CASE WHEN f.active THEN g.scopes ELSE array_remove(g.scopes, 'declare') END AS scopes,
               f.id, f.code, f.name, f.kind, f.province, f.commune, f.address, f.zone, f.authority, f.capacity,
               f.sandbox
        FROM api_keys k
        JOIN principals p ON p.id = k.principal_id AND p.active
        LEFT JOIN (grants g JOIN facilities f ON f.id = g.facility_id)
            ON g.principal_id = p.id AND g.revoked_at IS NULL
        WHERE k.id = $1 AND k.revoked_at IS NULL
        """,
        key_id,
    )
    if not rows:
        return None
    first = rows[0]
    principal = Principal(
        id=first["principal_id"],
        kind=PrincipalKind(first["principal_kind"]),
        name=first["principal_name"],
        organisation=first["organisation"],
        department=None if first["department"] is None else Department(first["department"]),
        grants={
            row["code"]: (facility(row), frozenset(map(Scope, row["scopes"]))) for row in rows if row["id"] is not None
        },
    )
    return HeldKey(first["secret_sha256"], first["expires_at"], principal)


# -- sessions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeldSession:
    """An open session: the key it was opened with, and the facility it is for. It ends with its key at the latest."""

    key_id: str
    facility_code: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, repr=False)
class TokenDigests:
    """The SHA-256 of a session's two tokens, and until when each is good."""

    access_sha256: bytes
    refresh_sha256: bytes
    access_expires_at: datetime
    refresh_expires_at: datetime


async def insert_session(
    connection: Connection, key_id: str, facility_id: int, tokens: TokenDigests, now: datetime
) -> None:
    """Open a session."""
    await connection.execute(
        """
        INSERT INTO portal_sessions (key_id, facility_id, opened_at, access_sha256, refresh_sha256,
            access_expires_at, refresh_expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        key_id,
        facility_id,
        now,
        tokens.access_sha256,
        tokens.refresh_sha256,
        tokens.access_expires_at,
        tokens.refresh_expires_at,
    )


async def replace_tokens(connection: Connection, refresh_sha256: bytes, tokens: TokenDigests, now: datetime) -> bool:
    """Give the session of this refresh token new tokens; False if there is none, or it has ended."""
    row = await connection.fetchrow(
        """
        UPDATE portal_sessions
        SET access_sha256 = $2, refresh_sha256 = $3, access_expires_at = $4, refresh_expires_at = $5
        WHERE refresh_sha256 = $1 AND refresh_expires_at > $6 RETURNING key_id
        """,
        refresh_sha256,
        tokens.access_sha256,
        tokens.refresh_sha256,
        tokens.access_expires_at,
        tokens.refresh_expires_at,
        now,
    )
    return row is not None


async def delete_session(connection: Connection, access_sha256: bytes) -> None:
    """Close the session of this access token, if there is one."""
    await connection.execute("DELETE FROM portal_sessions WHERE access_sha256 = $1", access_sha256)


async def delete_spare_sessions(connection: Connection, key_id: str, keep: int, now: datetime) -> None:
    """Remove the sessions that have ended, and those of a key beyond its `keep` newest; others may do so meanwhile."""
    await connection.execute(
        """
        DELETE FROM portal_sessions WHERE access_sha256 IN (
            SELECT access_sha256 FROM portal_sessions
            WHERE refresh_expires_at <= $3 OR access_sha256 IN (
                SELECT access_sha256 FROM portal_sessions WHERE key_id = $1 ORDER BY opened_at DESC OFFSET $2)
            FOR UPDATE SKIP LOCKED)
        """,
        key_id,
        keep,
        now,
    )


async def find_session(connection: Connection, access_sha256: bytes) -> HeldSession | None:
    """The session of this access token, ended or not."""
    row = await connection.fetchrow(
        """
        SELECT s.key_id, f.code, s.access_expires_at
        FROM portal_sessions s JOIN facilities f ON f.id = s.facility_id WHERE s.access_sha256 = $1
        """,
        access_sha256,
    )
    return None if row is None else HeldSession(*row)
