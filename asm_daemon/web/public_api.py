"""What everybody may read: limits, code tables, problem codes, the sandbox, and whether the daemon is well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from functools import cache, partial

import structlog
from aiohttp import web

from asm_daemon import __version__
from asm_daemon.forms import blank_form
from asm_daemon.problems import PROBLEMS, Refused
from asm_daemon.web.bodies import NO_BODY
from asm_daemon.web.rendering import answer, entity_tag, matches_entity_tag
from asm_daemon.web.route import JSON, PUBLIC, Call, Header, NoQuery, Route, Shown, Table
from schemas import codes, sandbox
from schemas.answers import (
    CodeRow,
    CodeTable,
    Health,
    ProblemCatalogue,
    ProblemKind,
    Readiness,
    Sandbox,
    SandboxError,
    SandboxPerson,
    Tables,
    TableSummary,
    Texts,
    ViolationKind,
)
from schemas.families import minor_rule
from schemas.limits import (
    DECLARATION_BYTES,
    IDEMPOTENCY_KEY_LIMIT,
    LIST_ROWS,
    PORTAL_BODY_BYTES,
    Limits,
    MinorLimit,
)
from schemas.stay import (
    ARRIVAL_AHEAD_LIMIT,
    ARRIVAL_BEHIND_LIMIT,
    NAME_LIMIT,
    SOURCE_REF_LIMIT,
    STAY_LIMIT,
    TEXT_LIMIT,
    vietnam_day,
)
from schemas.synthetic import Person
from schemas.violations import CATALOGUE

Check = Callable[[], Awaitable[object]]
CHECK_SECONDS = 3.0
_SHARED = "public, max-age=300"
_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
IF_NONE_MATCH = Header("If-None-Match", "ETag của lần đọc trước · The ETag of an earlier answer", '"2025-07-01.0a1b"')

log = structlog.get_logger()
_Call = Call[NoQuery, None]


async def read_limits(
    max_body_bytes: int, max_batch_rows: int, connectors: Sequence[str], trial: bool, call: _Call
) -> web.Response:
    """Everything a sender has to know beforehand."""
    return answer(
        Limits(
            environment="trial" if trial else "production",
            now=call.received_at,
            declaration_bytes=DECLARATION_BYTES,
            body_bytes=max_body_bytes,
            portal_body_bytes=PORTAL_BODY_BYTES,
            batch_rows=max_batch_rows,
            list_rows=LIST_ROWS,
            idempotency_key_characters=IDEMPOTENCY_KEY_LIMIT,
            source_ref_characters=SOURCE_REF_LIMIT,
            name_characters=NAME_LIMIT,
            text_characters=TEXT_LIMIT,
            arrival_ahead_hours=int(ARRIVAL_AHEAD_LIMIT.total_seconds() // 3600),
            arrival_behind_days=ARRIVAL_BEHIND_LIMIT.days,
            stay_days=STAY_LIMIT.days,
            minors=_minors(vietnam_day(call.received_at)),
            connectors=sorted(connectors),
        )
    )


def _minors(today: date) -> list[MinorLimit]:
    in_force = {kind: rule for kind in codes.FacilityKind if (rule := minor_rule(kind, today)) is not None}
    return [
        MinorLimit(
            facility_kinds=[kind for kind in in_force if in_force[kind] == rule],
            below_age=rule.below_age,
            guardian_in_house=rule.guardian_in_house,
            source=rule.source,
        )
        for rule in dict.fromkeys(in_force.values())
    ]


# -- reference data ----------------------------------------------------------------------------------------------------


async def list_tables(_call: _Call) -> web.Response:
    """The code tables and their versions."""
    held = await asyncio.to_thread(list, codes.TABLES.values())
    shown = [
        TableSummary(
            name=each.name,
            version=each.version,
            rows=len(each.rows),
            rows_in_force=each.rows_in_force,
            dated_on=each.dated_on,
            source=each.source,
        )
        for each in held
    ]
    return answer(Tables(tables=shown))


async def read_table(call: _Call) -> web.Response:
    """One code table; unchanged since the sender's version, only that is said."""
    name = call.path["table"]
    if name not in codes.TABLES:
        raise Refused("not_found")
    table = await asyncio.to_thread(codes.table, name)
    headers = {"ETag": entity_tag(table.version)}
    if matches_entity_tag(call.headers.get("If-None-Match", ""), table.version):
        return web.Response(status=304, headers=headers)
    return web.Response(body=await asyncio.to_thread(_written_table, name), headers=headers, content_type=JSON)


@cache
def _written_table(name: str) -> bytes:
    """A table as it is answered: 10,000 former communes are not written anew for everybody who asks."""
    table = codes.table(name)
    rows = [CodeRow.model_validate(asdict(row)) for row in table.rows]
    return CodeTable(name=table.name, version=table.version, rows=rows).model_dump_json().encode()


async def read_template(call: _Call) -> web.Response:
    """The blank guest list for a kind of facility, to fill in and send to `POST /v1/imports`."""
    try:
        kind = codes.FacilityKind(call.path["facility_kind"])
    except ValueError:
        raise Refused("not_found") from None
    form = await asyncio.to_thread(blank_form, kind)
    headers = {"ETag": entity_tag(form.tag)}
    if matches_entity_tag(call.headers.get("If-None-Match", ""), form.tag):
        return web.Response(status=304, headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="khai-bao-luu-tru-{kind}.xlsx"'
    return web.Response(body=form.content, headers=headers, content_type=_XLSX)


async def list_problems(_call: _Call) -> web.Response:
    """Every problem and violation code with its texts."""
    problems = [
        ProblemKind(code=kind.code, status=kind.status, title={"vi": kind.title.vi, "en": kind.title.en})
        for kind in PROBLEMS.values()
    ]
    violations = [ViolationKind(code=code, message={"vi": text.vi, "en": text.en}) for code, text in CATALOGUE.items()]
    return answer(ProblemCatalogue(problems=problems, violations=violations))


async def read_sandbox(_call: _Call) -> web.Response:
    """The test persons, and how to provoke each error."""
    return answer(
        Sandbox(
            explanation=_EXPLANATION,
            persons=[
                SandboxPerson(guest=guest_of(entry.person), verification=entry.verification)
                for entry in sandbox.TEST_PERSONS
            ],
            errors=[
                *(_provoked(code, None) for code in PROBLEMS if code != "declaration_invalid"),
                *(_provoked("declaration_invalid", code) for code in CATALOGUE),
            ],
        )
    )


_EXPLANATION: Texts = {
    "vi": "Dùng khoá của một cơ sở thử nghiệm (sandbox): biên nhận mang dấu thử nghiệm, không có gì được chuyển tới cơ "
    "sở dữ liệu dân cư, cơ quan công an hay các sở. Nhân vật thử cho kết quả đối chiếu đã biết; source_ref trong danh "
    "sách errors gây ra đúng lỗi đó. Trùng khách: khai báo cùng một nhân vật hai lần với source_ref khác nhau.",
    "en": "Use the key of a sandbox facility: receipts are marked as trials, and nothing reaches the population "
    "database, the police or a department. Test persons have a known answer of the population check; a source_ref of "
    "the list errors provokes just that error. A guest already staying: declare one person under two source_refs.",
}


def _provoked(code: str, violation: str | None) -> SandboxError:
    wanted = f"{code}:{violation}" if violation else code
    return SandboxError(source_ref=sandbox.ERROR_PREFIX + wanted, code=code, violation=violation)


def guest_of(person: Person) -> dict[str, object]:
    """A synthetic person as the guest of a declaration."""
    return {
        "full_name": person.full_name,
        "birth_date": person.birth_date,
        "gender": person.gender,
        "nationality": person.nationality,
        "document": {"type": person.document_type, "number": person.document_number},
    }


# -- the daemon's own state --------------------------------------------------------------------------------------------


async def read_health(_call: _Call) -> web.Response:
    """The process answers; it says nothing about what it depends on."""
    return answer(Health(version=__version__))


async def read_readiness(checks: Mapping[str, Check], _call: _Call) -> web.Response:
    """Whether declarations can be taken in: 503 as soon as one check raises or takes too long."""
    names = list(checks)
    passed = await asyncio.gather(*(_passes(name, checks[name]) for name in names))
    states = Readiness(
        ready=all(passed), checks={name: "ok" if ok else "failed" for name, ok in zip(names, passed, strict=True)}
    )
    return answer(states, status=200 if states.ready else 503)


async def _passes(name: str, check: Check) -> bool:
    task = asyncio.ensure_future(check())
    # Not asyncio.timeout: a database that hangs would hold up the cancellation too, and with it the answer.
    done, _ = await asyncio.wait({task}, timeout=CHECK_SECONDS)
    if not done:
        task.cancel()
        log.warning("not_ready", job=name)
        return False
    if error := task.exception():  # whatever it is, the daemon is not ready; the log says what it was
        log.warning("not_ready", job=name, exc_info=error)
        return False
    return True


# -- the table ---------------------------------------------------------------------------------------------------------


def public_routes(
    max_body_bytes: int,
    max_batch_rows: int,
    connectors: Sequence[str],
    checks: Mapping[str, Check],
    trial: bool,
) -> Table:
    """The routes that ask for no key. `checks` raise when the daemon is not ready."""
    limits = partial(read_limits, max_body_bytes, max_batch_rows, connectors, trial)
    readiness = partial(read_readiness, checks)
    state = {200: Shown("Sẵn sàng · Ready", Readiness), 503: Shown("Chưa sẵn sàng · Not ready", Readiness)}
    unchanged = Shown("Không đổi · Unchanged", media=())
    table = {200: Shown("Danh mục", CodeTable, headers={"ETag": "Phiên bản"}), 304: unchanged}
    template = {200: Shown("Tệp Excel trống", media=(_XLSX,), headers={"ETag": "Phiên bản"}), 304: unchanged}
    return (
        Route("GET", "/v1/limits", PUBLIC, limits, NoQuery, NO_BODY,
              {200: Shown("Giới hạn và đồng hồ", Limits)}, "Giới hạn, đồng hồ", "Limits and the clock"),
        Route("GET", "/v1/codes", PUBLIC, list_tables, NoQuery, NO_BODY,
              {200: Shown("Các danh mục", Tables)}, "Các danh mục mã", "Code tables", cache=_SHARED),
        Route("GET", "/v1/codes/{table}", PUBLIC, read_table, NoQuery, NO_BODY,
              table, "Một danh mục mã", "One code table", ("not_found",), (IF_NONE_MATCH,), cache=_SHARED),
        Route("GET", "/v1/templates/{facility_kind}.xlsx", PUBLIC, read_template, NoQuery, NO_BODY,
              template, "Mẫu danh sách khách theo loại cơ sở", "A blank guest list for a kind of facility",
              ("not_found",), (IF_NONE_MATCH,), cache=_SHARED),
        Route("GET", "/v1/problems", PUBLIC, list_problems, NoQuery, NO_BODY,
              {200: Shown("Các mã lỗi", ProblemCatalogue)}, "Các mã lỗi", "Problem and violation codes", cache=_SHARED),
        Route("GET", "/v1/sandbox", PUBLIC, read_sandbox, NoQuery, NO_BODY,
              {200: Shown("Cách dùng thử", Sandbox)}, "Dùng thử", "Test persons and errors on demand", cache=_SHARED),
        Route("GET", "/healthz", PUBLIC, read_health, NoQuery, NO_BODY,
              {200: Shown("Tiến trình đang chạy", Health)}, "Tiến trình còn trả lời", "The process answers"),
        Route("GET", "/readyz", PUBLIC, readiness, NoQuery, NO_BODY,
              state, "Sẵn sàng nhận khai báo", "Ready to take declarations in"),
    )  # fmt: skip
