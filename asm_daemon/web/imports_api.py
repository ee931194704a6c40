"""Files: sent in, followed while they are read, and fetched back with what is wrong in each row."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from uuid import UUID

import asyncpg
from aiohttp import web

from asm_daemon import import_jobs, imports
from asm_daemon.crypto import Keyring
from asm_daemon.directory import authorise
from asm_daemon.import_jobs import Importer
from asm_daemon.intake import Intake
from asm_daemon.model import Scope
from asm_daemon.web.api import batch_answer
from asm_daemon.web.bodies import NO_BODY, Document, document_body
from asm_daemon.web.rendering import answer
from asm_daemon.web.route import STAY_ID, Call, NoQuery, Route, Shown, Table, owner
from schemas.act import Connector
from schemas.imports import ImportReport, ImportState, ImportStates
from schemas.queries import ImportQuery

IMPORT_ID = STAY_ID.replace("stay_id", "import_id")
WAIT_STEP_SECONDS = 0.05
_ACCEPTED = 202
_CSV, _XLSX = "text/csv", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


async def import_file(
    intake: Intake,
    importer: Importer,
    pool: asyncpg.Pool,
    connectors: Mapping[str, Connector],
    call: Call[ImportQuery, Document],
) -> web.Response:
    """Declare what a file holds, or rehearse it; the results name the file's own rows and cells.

    What is done within `wait` seconds is answered with the result of every row; a longer one with its state (202).
    """
    file, fields = call.body, call.body.fields
    facility = authorise(call.principal, fields.get("facility", call.query.facility), Scope.DECLARE)
    connector = imports.choose_connector(
        connectors,
        name=fields.get("connector", call.query.connector),
        file_name=file.filename,
        media_type=file.media_type,
    )
    actor, received_at = str(call.principal.id), call.received_at
    if call.query.rehearse:
        result = await imports.import_document(
            intake, connector, file.content, facility=facility, actor=actor, received_at=received_at, rehearse=True
        )
        return batch_answer(result)
    job = await importer.put(facility, connector.name, file.content, actor=actor, received_at=received_at)
    state = await _wait(importer, pool, job.id, call)
    where = {"Location": f"/v1/imports/{state.import_id}"}
    if state.finished_at is None:
        return answer(state, _ACCEPTED, where | {"Retry-After": "1"})
    response = batch_answer(await import_jobs.read_report(pool, call.principal, job.id, call.received_at))
    response.headers.update(where)
    return response


async def _wait(importer: Importer, pool: asyncpg.Pool, job_id: UUID, call: Call[ImportQuery, Document]) -> ImportState:
    loop = asyncio.get_running_loop()
    until = loop.time() + call.query.wait
    while True:
        state = await import_jobs.read_state(pool, call.principal, job_id, call.received_at)
        if state.finished_at is not None or loop.time() >= until or importer.is_stopping:
            return state
        await asyncio.sleep(WAIT_STEP_SECONDS)


async def list_imports(pool: asyncpg.Pool, call: Call[NoQuery, None]) -> web.Response:
    """The newest files and how far they have come."""
    return answer(await import_jobs.list_states(pool, call.principal, call.received_at))


async def read_import(pool: asyncpg.Pool, call: Call[NoQuery, None]) -> web.Response:
    """How far a file has come."""
    return answer(await import_jobs.read_state(pool, call.principal, _import_id(call), call.received_at))


async def read_report(pool: asyncpg.Pool, call: Call[NoQuery, None]) -> web.Response:
    """What became of each row so far."""
    return answer(await import_jobs.read_report(pool, call.principal, _import_id(call), call.received_at))


async def fetch_annotated(pool: asyncpg.Pool, keyring: Keyring, call: Call[NoQuery, None]) -> web.Response:
    """The same file with a column of errors; it is given once, and then erased here."""
    content, is_workbook = await import_jobs.annotate(pool, keyring, call.principal, _import_id(call), call.received_at)
    name = "ket-qua.xlsx" if is_workbook else "ket-qua.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if is_workbook:
        return web.Response(body=content, headers=headers, content_type=_XLSX)
    return web.Response(body=content, headers=headers, content_type=_CSV, charset="utf-8")


def _import_id(call: Call[NoQuery, None]) -> UUID:
    return UUID(call.path["import_id"])


_DECLARE = owner(Scope.DECLARE)
_WHERE = {"Location": "Công việc đọc tệp · The job"}
_TAKEN = {
    200: Shown("Mọi dòng đã được ghi nhận (mới hoặc trùng) · Every row is on file", ImportReport, headers=_WHERE),
    202: Shown("Đang đọc: hỏi lại ở Location · Being read: ask again at Location", ImportState, headers=_WHERE),
    207: Shown("Có dòng bị từ chối: xem results · Some rows were refused: see results", ImportReport, headers=_WHERE),
}
_STATE = {200: Shown("Tiến độ · How far it has come", ImportState)}
_STATES = {200: Shown("Các tệp gần đây · The newest files", ImportStates)}
_REPORT = {200: Shown("Kết quả từng dòng, không có dữ liệu cá nhân · Each row, without personal data", ImportReport)}
_FILE = {200: Shown("Tệp đã gửi, thêm cột lỗi · The file with a column of errors", media=(_XLSX, _CSV))}
_PROBLEMS = (
    "request_invalid", "facility_not_granted", "facility_required", "unknown_connector", "declaration_invalid",
    "no_rows", "all_rows_refused", "overloaded", "outcome_unknown",
)  # fmt: skip


def import_routes(
    intake: Intake,
    importer: Importer,
    pool: asyncpg.Pool,
    keyring: Keyring,
    connectors: Mapping[str, Connector],
    max_body_bytes: int,
) -> Table:
    """The routes of files. `pool` connects as asm_intake; `connectors` read files, by name."""
    media = tuple(dict.fromkeys(each for connector in connectors.values() for each in connector.media_types))
    file = document_body(media, max_body_bytes, ("facility", "connector"))
    each = f"/v1/imports/{IMPORT_ID}"
    take = partial(import_file, intake, importer, pool, connectors)
    return (
        Route("POST", "/v1/imports", _DECLARE, take, ImportQuery, file, _TAKEN,
              "Khai báo từ tệp", "Declare what a file holds", _PROBLEMS),
        Route("GET", "/v1/imports", _DECLARE, partial(list_imports, pool), NoQuery, NO_BODY, _STATES,
              "Các tệp đã gửi", "The files that were sent"),
        Route("GET", each, _DECLARE, partial(read_import, pool), NoQuery, NO_BODY, _STATE,
              "Tiến độ đọc tệp", "How far a file has come", ("not_found",)),
        Route("GET", f"{each}/report", _DECLARE, partial(read_report, pool), NoQuery, NO_BODY, _REPORT,
              "Kết quả từng dòng", "What became of each row", ("not_found", "no_rows", "declaration_invalid")),
        Route("GET", f"{each}/annotated", _DECLARE, partial(fetch_annotated, pool, keyring), NoQuery, NO_BODY, _FILE,
              "Tệp kèm cột lỗi", "The file with its errors",
              ("not_found", "import_not_ended", "file_erased", "not_annotatable", "no_rows", "declaration_invalid")),
    )  # fmt: skip
