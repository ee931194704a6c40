"""What witnesses and auditors call: signed sizes of the audit and proofs between them. Everybody may; no entry is told.

A cosignature needs no key: it is believed for its own signature, by the witness of the settings and nobody else.
"""

from __future__ import annotations

from functools import partial

import asyncpg
import structlog
from aiohttp import web

from asm_daemon import audit, witnessing
from asm_daemon.audit import AuditBroken, NotSealed
from asm_daemon.problems import Refused
from asm_daemon.store import audit as store
from asm_daemon.web import examples
from asm_daemon.web.bodies import NO_BODY, model_body
from asm_daemon.web.rendering import answer
from asm_daemon.web.route import OPERATOR, PUBLIC, Call, NoQuery, Route, Shown, Table
from asm_daemon.witnessing import ACQUIRE_SECONDS, Watch
from schemas.audit import AuditState, Consistency, ConsistencyQuery, Cosignature, Inclusion, InclusionQuery

COSIGNATURE_BYTES = 4_096
_TEXT = "text/plain"
_BRIEFLY = "public, max-age=1"
_ALWAYS = "public, max-age=86400, immutable"

log = structlog.get_logger()


async def read_checkpoint(pool: asyncpg.Pool, _call: Call[NoQuery, None]) -> web.Response:
    """The newest checkpoint."""
    async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        return _note(await store.latest_checkpoint(connection))


async def read_cosigned_checkpoint(watch: Watch, _call: Call[NoQuery, None]) -> web.Response:
    """The newest checkpoint that the witness cosigned, with its cosignature."""
    return _note(await witnessing.cosigned_checkpoint(watch))


def _note(note: str | None) -> web.Response:
    if note is None:
        raise Refused("not_found")
    return web.Response(text=note, content_type=_TEXT, charset="utf-8")


async def prove_consistency(pool: asyncpg.Pool, call: Call[ConsistencyQuery, None]) -> web.Response:
    """That the audit of one size extends that of a smaller one."""
    old, new = call.query.old, call.query.new
    async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        try:
            proof = await audit.consistency_proof(connection, old, new)
        except NotSealed:
            raise Refused("not_found") from None
        except AuditBroken:
            log.exception("audit.no_proof")
            raise Refused("audit_unavailable") from None
    return answer(Consistency(old=old, new=new, proof=[each.hex() for each in proof.path]))


async def prove_inclusion(pool: asyncpg.Pool, call: Call[InclusionQuery, None]) -> web.Response:
    """That an entry is in the audit, against its newest checkpoint. Of the entry its hash alone is told."""
    async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        position = await store.position_of(connection, call.query.entry)
        if position is None:
            raise Refused("not_found")
        try:
            proof = await audit.inclusion_proof(connection, position)
        except (AuditBroken, NotSealed):
            log.exception("audit.no_proof")
            raise Refused("audit_unavailable") from None
    path = [each.hex() for each in proof.path]
    return answer(Inclusion(position=position, leaf=proof.leaf.hex(), proof=path, checkpoint=proof.note))


async def take_cosignature(watch: Watch, call: Call[NoQuery, Cosignature]) -> web.Response:
    """Keep what the witness confirmed."""
    await witnessing.take_cosignature(watch, call.body.size, call.body.line, call.received_at)
    return web.Response(status=204)


async def read_audit_state(watch: Watch, call: Call[NoQuery, None]) -> web.Response:
    """How large the audit is, and how its witness stands to it."""
    return answer(await witnessing.state(watch, call.received_at))


def audit_routes(watch: Watch) -> Table:
    """The routes about the audit itself."""
    cosignature = model_body(Cosignature, COSIGNATURE_BYTES, examples.COSIGNATURE)
    note = {200: Shown("Điểm kiểm tra đã ký · A signed checkpoint", media=(_TEXT,))}
    pool = watch.pool
    return (
        Route("GET", "/v1/audit/checkpoint", PUBLIC, partial(read_checkpoint, pool), NoQuery, NO_BODY, note,
              "Điểm kiểm tra mới nhất của nhật ký kiểm toán", "The newest checkpoint of the audit",
              ("not_found",), cache=_BRIEFLY),
        Route("GET", "/v1/audit/cosigned-checkpoint", PUBLIC, partial(read_cosigned_checkpoint, watch), NoQuery,
              NO_BODY, note, "Điểm kiểm tra mới nhất có chữ ký của nhân chứng",
              "The newest checkpoint that the witness cosigned", ("not_found",), cache=_BRIEFLY),
        Route("GET", "/v1/audit/consistency", PUBLIC, partial(prove_consistency, pool), ConsistencyQuery, NO_BODY,
              {200: Shown("Chứng minh nhật ký chỉ dài thêm · Proof that the audit only grew", Consistency)},
              "Chứng minh nhật ký chỉ dài thêm", "Proof that the audit only grew",
              ("not_found", "audit_unavailable"), cache=_ALWAYS),
        Route("GET", "/v1/audit/inclusion", PUBLIC, partial(prove_inclusion, pool), InclusionQuery, NO_BODY,
              {200: Shown("Chứng minh bản ghi có trong nhật ký · Proof that an entry is in the audit", Inclusion)},
              "Chứng minh bản ghi có trong nhật ký", "Proof that an entry is in the audit",
              ("not_found", "audit_unavailable"), cache=_BRIEFLY),
        Route("POST", "/v1/audit/cosignatures", PUBLIC, partial(take_cosignature, watch), NoQuery, cosignature,
              {204: Shown("Đã nhận · Taken", media=())}, "Nhân chứng gửi chữ ký xác nhận", "A witness confirms",
              ("not_json", "request_invalid", "not_found", "cosignature_refused")),
        Route("GET", "/v1/admin/audit", OPERATOR, partial(read_audit_state, watch), NoQuery, NO_BODY,
              {200: Shown("Tình trạng nhật ký và nhân chứng · The audit and its witness", AuditState)},
              "Tình trạng nhật ký kiểm toán", "How the audit and its witness are doing"),
    )  # fmt: skip
