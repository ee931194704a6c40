"""What a reception desk calls with a scanner in its hand: an identity document read into members of a declaration.

Nothing is stored, nothing is looked up, and what the scanner sent appears in no log and no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import partial

from aiohttp import web

from asm_daemon.model import Scope
from asm_daemon.problems import violated
from asm_daemon.rules import local_day
from asm_daemon.web import examples
from asm_daemon.web.bodies import model_body
from asm_daemon.web.rendering import answer
from asm_daemon.web.route import Call, NoQuery, Route, Shown, Table, owner
from schemas.identity import DocumentReading, PayloadKind, Reading, ScannedDocument
from schemas.limits import DECLARATION_BYTES

ReadDocument = Callable[[str, date, PayloadKind | None], Reading]


async def read_identity_document(read: ReadDocument, call: Call[NoQuery, ScannedDocument]) -> web.Response:
    """Read a scan; what cannot be read is part of the answer, since the rest still saves typing."""
    found = read(call.body.payload, local_day(call.received_at), call.body.kind)
    return answer(
        DocumentReading(
            kind=found.kind,
            fields=dict(found.fields),
            warnings=[violated(each) for each in found.warnings],
            violations=[violated(each) for each in found.violations],
        )
    )


def document_routes(read: ReadDocument) -> Table:
    """The routes for scanned identity documents; `read` is `connectors.identity.read`."""
    scan = model_body(ScannedDocument, DECLARATION_BYTES, examples.SCAN)
    return (
        Route("POST", "/v1/documents:read", owner(Scope.DECLARE), partial(read_identity_document, read),
              NoQuery, scan,
              {200: Shown("Nội dung đọc được, và chỗ cần xem lại · What was read, and what to look at",
                          DocumentReading)},
              "Đọc mã QR thẻ căn cước hoặc MRZ; không lưu gì", "Read a card's QR code or an MRZ; nothing is stored",
              ("not_json", "request_invalid")),
    )  # fmt: skip
