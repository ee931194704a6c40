"""The table of targets: what is fuzzed, from what, with which words.

Every connector that is installed is a target by itself: a new one is fuzzed from the day it is registered, beginning
with all documents there are, and better once `CORPORA` has sound ones of its own. Each value of the sound documents
bears one of `MARKS`, by which the oracle sees that nothing of the input is repeated where it must not be.
"""

from __future__ import annotations

import asyncio
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cache, partial
from importlib.metadata import entry_points
from io import BytesIO
from pathlib import Path
from xml.sax.saxutils import escape

import orjson

from asm_daemon import mllp, samples
from asm_daemon.problems import Refused
from asm_daemon.web.bodies import JSON, MULTIPART, NDJSON, Body, Document, Row, document_body, object_body, rows_body
from asm_daemon.web.thinning import Thinner
from connectors import identity, kbtt_api
from connectors.__main__ import GROUP
from connectors.__main__ import results as limited_results
from connectors.official_xlsx import SHEET
from connectors.tables import letters
from schemas.act import Act, ActKind, Connector, Unreadable, from_json, to_json
from schemas.columns import HEADINGS
from schemas.identity import PayloadKind
from schemas.stay import StayDeclaration
from schemas.violations import Violation
from tests.connectors import mrz

Results = Iterable[Act | Unreadable]

MARKS = ("QZXJW", "734517")
"""What stands in every name and every document number of the sound documents, and nowhere else."""
DAY = date(2026, 11, 23)
SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"
BODY_BYTES, BATCH_ROWS = 8 << 20, 5_000


@dataclass(frozen=True, slots=True)
class Target:
    """One reader under test.

    `read` never raises, `seeds` are sound inputs for it, `dictionary` words of its format. With `archives` the inputs
    are ZIP files whose reader may die of them: it is only ever given one in a limited process (`connectors.__main__`).
    """

    name: str
    read: Callable[[bytes], Results]
    seeds: Callable[[], Sequence[bytes]]
    dictionary: Sequence[bytes] = ()
    archives: bool = False


@dataclass(frozen=True, slots=True)
class Corpus:
    """Sound documents of a connector; `sheets` are those of its workbooks, as `workbook_of` writes them."""

    documents: Callable[[], Sequence[bytes]] = lambda: ()
    sheets: Callable[[], Sequence[bytes]] = lambda: ()
    dictionary: Sequence[bytes] = ()


# -- sound documents ---------------------------------------------------------------------------------------------------


def marked(document: bytes) -> bytes:
    """The document with a mark in every personal number, every passport and every name."""
    document = re.sub(rb"(?<!\d)(000\d{3})\d{6}(?!\d)", rb"\g<1>" + MARKS[1].encode(), document)
    document = re.sub(rb"TEST\d{5}", b"TEST" + MARKS[1].encode(), document)
    for guest in samples.people(0, 300):
        document = document.replace(guest.full_name.encode(), f"{guest.full_name} {MARKS[0]}".encode())
    return document


def _texts(rows: Sequence[Sequence[str]], separator: str = ";") -> bytes:
    return "".join(separator.join(cells) + "\r\n" for cells in rows).encode()


_HEADINGS = [names.split("|")[0].strip() for names in HEADINGS.values()]
_OWN_ROWS = [
    ["STT", "Họ tên (viết hoa)", "Ngày sinh", "Giới tính", "Quốc tịch", "Loại giấy tờ", "Số giấy tờ", "Ngày đến",
     "Giờ đến", "Ngày đi", "Phòng", "Lý do", "Ghi chú", "Tỉnh", "Xã", "Địa chỉ", "Màu xe"],
    ["1", "NGUYỄN THỊ QZXJW", "14/05/1990", "Nữ", "VNM", "CCCD", "000190734517", "23/11/2026", "14h05", "25/11/2026",
     "203 QZXJW", "Du lịch", "QZXJW", "109", "Phường QZXJW", "QZXJW", "QZXJW"],
    ["2", "PARK QZXJW", "1980", "M", "KOR", "Hộ chiếu", "TEST734517", "23/11/2026 09:00", "", "24/11/2026",
     "204", "1", "", "", "", "", ""],
]  # fmt: skip
_OFFICIAL_ROWS = [
    [], ["STT", "HỌ TÊN*", "NGÀY SINH*", "GIỚI TÍNH*", "QUỐC TỊCH*", "LOẠI GIẤY TỜ*", "TÊN GIẤY TỜ", "SỐ GIẤY TỜ*"],
    [], ["1", "[EXAMPLE] QZXJW", "01/01/1990"],
    ["#1", "NGUYỄN THỊ QZXJW", "14/05/1990", "F - Nữ", "VNM - Việt Nam", "1 - Thẻ CCCD", "", "000190734517",
     "#912345678", "1", "109 - Hưng Yên", "109900001 - Phường", "QZXJW", "23/11/2026 14:05", "25/11/2026", "203",
     "1 - Du lịch", "", "QZXJW"],
    ["#2", "TRẦN QZXJW", "@45000", "M", "VNM", "9", "Thẻ QZXJW", "#190734517", "", "", "", "", "", "@46349.5", "@46350",
     "203", "20", "QZXJW", "!"],
]  # fmt: skip
_LOOSE = {"guest": {"full_name": "NGUYỄN QZXJW", "document": {"number": "000190734517"}}, "source_ref": "QZXJW-1"}
_HL7 = (
    "MSH|^~\\&|HIS|BV|ASM|T-1|20261123080000||ADT^A01^ADT_A01|QZXJW1|P|2.5||||||UNICODE UTF-8\r"
    "EVN|A01|20261123080000\rPID|1||734517^^^BV^MR~000190734517^^^^NNVNM~TEST734517^^^^PPN||Nguyễn^QZXJW^Thị^^^^L||"
    "19900514|F|||Số 7 QZXJW^^Phường QZXJW^109^^VNM^P||0900734517|||||QZXJW9||||||||VN\r"
    "NK1|1|TRẦN^QZXJW|FTH^Cha||0900734517\rPV1|1|I|KHOA^203^2||||||||||||||||QZXJW7|||||||||||||||||||||||||"
    "20261123074500\rPV2|||||||||20261126\rDG1|1||J18^QZXJW\r"
).encode()


def _hl7() -> Sequence[bytes]:
    events = [_HL7.replace(b"A01", event) for event in (b"A02", b"A03", b"A06", b"A07", b"A08", b"A11", b"A12", b"A13")]
    merged = _HL7.replace(b"A01", b"A40") + b"MRG|734517^^^BV^MR\r"
    framed = [b"\x0b" + each + b"\x1c\r" for each in (_HL7, *events, merged)]
    batch = b"FHS|^~\\&|HIS\rBHS|^~\\&|HIS\r" + _HL7 + events[1] + b"BTS|2\rFTS|1\r"
    latin = _HL7.replace(b"UNICODE UTF-8", b"8859/1").decode().encode("latin-1", "ignore")
    old = marked(samples.adt_a01(DAY, 0) + samples.adt_a03(DAY, 0))
    return [_HL7, *framed, b"\r\n".join(framed), batch, latin, _HL7.replace(b"\r", b"\n"), b"\xef\xbb\xbf" + _HL7, old]


def _stays() -> Sequence[bytes]:
    found = [marked(orjson.dumps(samples.declaration(DAY, seed, index=seed))) for seed in range(6)]
    return [*found, orjson.dumps(_LOOSE)]


def _portal() -> Sequence[bytes]:
    named = {"loaiGiayTo": 1, "soGiayTo": "000190734517"}
    foreigner = {
        "hoTen": "PARK QZXJW", "gioiTinh": "M", "ngayThangNamSinhStr": "1980-01-01", "loaiNgayThangNamSinh": "Y",
        "quocTich": "KOR", "soHoChieu": "TEST734517", "ngayDenCsltStr": "2026-11-23 09:00:00", "soPhong": 203,
        "ngayDiDuKienStr": "2026-11-25", "thoiHanTamTruStr": "2026-12-31", "anhHoChieuB64": "QUJD" * 40,
    }  # fmt: skip
    changes = [
        {"loai": "TS", "thoiGianStr": "2026-11-25 09:00:00", **named},
        {"loai": "GH", "thoiGianStr": "", **named},
    ]
    rows = orjson.loads(marked(samples.portal_rows(DAY, 6, seed=0)))
    return [orjson.dumps(rows), orjson.dumps(rows[:1]), orjson.dumps([foreigner, *changes])]


def _sample(name: str) -> Sequence[bytes]:
    return [marked((SAMPLES / name).read_bytes())]


_XLSX_WORDS = (
    b"A1",
    b"XFD1048576",
    b't="s"',
    b't="e"',
    b't="d"',
    b't="inlineStr"',
    b's="1"',
    b"<v>",
    b"</c>",
    b"1e308",
)

CORPORA: Mapping[str, Corpus] = {
    "spreadsheet": Corpus(
        lambda: [marked(samples.own_list_csv(DAY, 4, seed=0)), _texts(_OWN_ROWS), _texts(_OWN_ROWS, ","),
                 _texts(_OWN_ROWS).decode().encode("utf-16"), _texts([_HEADINGS, *_OWN_ROWS[1:]], "\t")],
        lambda: [_texts(_OWN_ROWS, "\t"), _texts(_OFFICIAL_ROWS, "\t")],
        [each.encode() for each in _HEADINGS],
    ),
    "official_xlsx": Corpus(sheets=lambda: [_texts(_OFFICIAL_ROWS, "\t")]),
    "dorm_roster": Corpus(
        lambda: [marked(samples.dorm_roster_csv(DAY, 6, seed=0)), _texts(_OWN_ROWS)],
        lambda: [re.sub(rb"[;,]", b"\t", marked(samples.dorm_roster_csv(DAY, 6, seed=0))), _texts(_OWN_ROWS, "\t")],
        [each.encode() for each in _HEADINGS],
    ),
    "foreigner_xml": Corpus(
        lambda: [marked(samples.foreigner_xml(DAY, count, seed=0)) for count in (1, 3)],
        dictionary=[b"<THONG_TIN_KHACH>", b"</THONG_TIN_KHACH>", b"<ngay_tra_phong>", b"<ngay_sinh_dung_den>", b"Y",
                    b'encoding="utf-16"', b'encoding="windows-1258"', b"<x:ho_ten xmlns:x='y'>"],
    ),
    "hl7_adt": Corpus(
        _hl7,
        dictionary=[b"MSH|^~\\&|", b"PID|", b"PV1|", b"\rEVN|", b"\\T\\", b"\\X0D\\", b"\\.br\\", b'""', b"ADT^A08",
                    b"8859/1", b"CP1258", b"UNICODE UTF-8", b"FHS|", b"BHS|", b"MRG|"],
    ),
    "kbtt_api": Corpus(_portal, dictionary=[b'"quocTich":', b'"loai":"TS"', b'"soGiayTo":[]', b'{"a":{}}']),
    "pms_ota": Corpus(
        partial(_sample, "hotel-opentravel.xml"),
        dictionary=[b"<PaymentCard ", b"<ResGuest>", b'<GuestCount Count="9"/>', b'ResStatus="Cancel"', b"<Surname>"],
    ),
    "pms_apaleo": Corpus(
        partial(_sample, "hotel-apaleo.json"), dictionary=[b'"primaryGuest":', b'"status":"Canceled"']
    ),
    "pms_mews": Corpus(partial(_sample, "hotel-mews.json"), dictionary=[b'"Customers":', b'"State":"Canceled"']),
    "pms_ohip": Corpus(partial(_sample, "hotel-ohip.json"), dictionary=[b'"reservationGuests":', b'"CheckedOut"']),
}  # fmt: skip
"""What is known of each connector; one that is not named here begins with the documents of all the others."""


# -- readers -----------------------------------------------------------------------------------------------------------


def _of_connector(connector: Connector, data: bytes) -> Results:
    if data.startswith(b"PK"):
        return ()  # only in a limited process: the targets with `archives`
    return limited_results(connector, data)


def _of_sheet(connector: Connector, data: bytes) -> Results:
    return limited_results(connector, workbook_of(data))


_PARTS = {
    "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/></Types>',
    "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship '
    'Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
    'Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>'
    f'<sheet name="{SHEET}" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" '
    'Target="worksheets/sheet1.xml"/><Relationship Id="r2" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles" Target="styles.xml"/>'
    "</Relationships>",
    "xl/styles.xml": '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
    '<cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/></cellXfs></styleSheet>',
}
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def workbook_of(data: bytes) -> bytes:
    """A sound workbook whose cells hold whatever `data` says: a row a line, a cell a tab.

    `#1.5` is a number, `@45000` a real date, `!` an error, `?1` a truth value, everything else a text. A sheet of the
    Ministry's name, unless the first cell begins with "STT", as lists of one's own do.
    """
    written = _NO_XML.sub("\ufffd", data.decode("utf-8", "replace"))
    rows = [line.split("\t")[:60] for line in written.replace("\r", "").split("\n")[:400]]
    cells = "".join(
        f'<row r="{number}">' + "".join(_cell(column, number, cell) for column, cell in enumerate(row)) + "</row>"
        for number, row in enumerate(rows, 1)
    )
    sheet = f'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{cells}'
    parts = {**_PARTS, "xl/worksheets/sheet1.xml": f"{sheet}</sheetData></worksheet>"}
    if written.startswith("STT"):
        parts["xl/workbook.xml"] = parts["xl/workbook.xml"].replace(SHEET, "Khách")
    output = BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return output.getvalue()


def _cell(column: int, number: int, cell: str) -> str:
    place, bare = f'r="{letters(column)}{number}"', escape(cell[1:])
    if not cell:
        return ""
    match cell[0]:
        case "#":
            return f"<c {place}><v>{bare}</v></c>"
        case "@":
            return f'<c {place} s="1"><v>{bare}</v></c>'
        case "!":
            return f'<c {place} t="e"><v>#{bare or "REF!"}</v></c>'
        case "?":
            return f'<c {place} t="b"><v>{bare}</v></c>'
    return f'<c {place} t="inlineStr"><is><t xml:space="preserve">{escape(cell)}</t></is></c>'


def _of_payload(kind: PayloadKind | None, data: bytes) -> Results:
    reading = identity.read(data.decode("utf-8", "surrogateescape"), DAY, kind)
    yield Act(ActKind.DECLARE, reading.fields, 1, None, {}, reading.warnings, violations=reading.violations)


def _told(refusal: Refused) -> Unreadable:
    title = refusal.problem.title
    return Unreadable(0, refusal.violations or (Violation(refusal.code, "", title.vi, title.en),))


def _of_object(body: Body[Mapping[str, object]], kind: ActKind, data: bytes) -> Results:
    try:
        fields = body.decode(data, JSON)
    except Refused as refusal:
        yield _told(refusal)
    else:
        yield Act(kind, fields, 1, source_ref="S-1")


def _of_rows(body: Body[list[Row]], media_type: str, data: bytes) -> Results:
    for row in _rows(body, media_type, data):
        if isinstance(row, Unreadable):
            yield row
        elif row.fields is not None:
            yield Act(ActKind.DECLARE, row.fields, row.number)


def _of_portal(body: Body[list[Row]], data: bytes) -> Results:
    """The rows of a request of the national portal, its photographs dropped as it arrives in small pieces."""
    thin = Thinner()
    kept = b"".join(thin(data[at : at + 1000]) for at in range(0, len(data), 1000))
    for row in _rows(body, JSON, kept):
        if isinstance(row, Unreadable):
            yield row
        elif row.fields is not None:
            yield kbtt_api.citizen(row.fields, row.number)
            yield kbtt_api.foreigner(row.fields, row.number)
            yield kbtt_api.departure(row.fields, row.number, datetime(2026, 11, 23, tzinfo=UTC))


def _rows(body: Body[list[Row]], media_type: str, data: bytes) -> Iterator[Row | Unreadable]:
    try:
        rows = body.decode(data, media_type)
    except Refused as refusal:
        yield _told(refusal)
        return
    for row in rows:
        yield _told(row.refusal) if row.refusal else row


def _of_upload(body: Body[Document], data: bytes) -> Results:
    try:
        body.decode(data, f"{MULTIPART}; boundary=b")
    except Refused as refusal:
        yield _told(refusal)


def _of_line(data: bytes) -> Results:
    """What a child wrote is an equal result again, or no result: it may say anything."""
    try:
        result = from_json(data)
    except ValueError:
        return ()
    if from_json(to_json(result)) != result:
        raise AssertionError("differs after a journey as JSON")
    return ()


# -- MLLP --------------------------------------------------------------------------------------------------------------


class _Hospital:
    """A listener and one connection after the other to it, in one loop that lives as long as the process."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._runner = asyncio.Runner()
        self._results: list[Act | Unreadable] = []
        limits = mllp.Limits(frame_bytes=1 << 16, idle_seconds=5, answer_seconds=5)
        self._listener = self._runner.run(mllp.listen(self._take, "127.0.0.1", 0, limits=limits))

    async def _take(self, message: bytes, *_: object) -> mllp.Reply:
        found = list(self._connector.read(message))
        self._results += found
        faults = [fault for each in found if isinstance(each, Unreadable) for fault in each.violations]
        return mllp.Reply("AE", f"{faults[0].vi} / {faults[0].en}") if faults else mllp.Reply("AA")

    def say(self, data: bytes) -> Results:
        """Send, hang up, and hold the acknowledgements against the protocol."""
        self._results = []
        answers = self._runner.run(self._converse(data)).split(b"\x1c\r")
        if answers.pop() or len(answers) > data.count(b"\x1c"):
            raise AssertionError("not one whole frame for each message")
        for answer in answers:
            header, acknowledged, *rest = answer.decode().split("\r")
            if not (header.startswith("\x0bMSH") and acknowledged[3:4] == header[4:5] and rest == [""]):
                raise AssertionError("not an acknowledgement")
            if not acknowledged.startswith("MSA") or acknowledged[4:6] not in ("AA", "AE", "AR"):
                raise AssertionError("not an acknowledgement")
        return self._results

    async def _converse(self, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._listener.port)
        try:
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()


@cache
def _hospital() -> _Hospital:
    return _Hospital(installed()["hl7_adt"])


# -- the table ---------------------------------------------------------------------------------------------------------


@cache
def installed() -> Mapping[str, Connector]:
    """The connectors by name, as the daemon finds them."""
    return {entry.name: entry.load() for entry in entry_points(group=GROUP)}


def targets() -> Mapping[str, Target]:
    """Every target by its name."""
    return {target.name: target for target in (*_targets_of_connectors(), *_other_targets())}


def _targets_of_connectors() -> Iterator[Target]:
    for name, connector in sorted(installed().items()):
        known = CORPORA.get(name)
        documents = known.documents if known else _everything
        plain = Target(name, partial(_of_connector, connector), documents, known.dictionary if known else ())
        if known is None or documents():
            yield plain
        if known and known.sheets():
            yield replace(plain, name=f"{name}:cells", read=partial(_of_sheet, connector), seeds=known.sheets)
        if known is None or known.sheets():
            books = partial(_books, known.sheets if known else CORPORA["spreadsheet"].sheets)
            read = partial(limited_results, connector)
            yield Target(f"{name}:archive", read, books, _XLSX_WORDS, archives=True)


def _everything() -> Sequence[bytes]:
    return [*_stays(), *(document for corpus in CORPORA.values() for document in corpus.documents())]


def _books(sheets: Callable[[], Sequence[bytes]]) -> Sequence[bytes]:
    return [marked(samples.official_xlsx(DAY, 3, seed=0)), *map(workbook_of, sheets())]


def _other_targets() -> Sequence[Target]:
    one = object_body(StayDeclaration, BODY_BYTES)
    many = rows_body(StayDeclaration, BODY_BYTES, BATCH_ROWS)
    upload = document_body(("text/csv",), BODY_BYTES, ("facility", "connector"))
    hl7 = CORPORA["hl7_adt"]
    return (
        Target("cccd_qr", partial(_of_payload, "cccd_qr"), _cards, (b"|", b"||", b"01012000", b"Nam", b"]Q3")),
        Target("mrz", partial(_of_payload, "mrz"), _zones, (b"<", b"<<", b"P<", b"IDVNM", b"\n")),
        Target("payload", partial(_of_payload, None), lambda: [*_cards(), *_zones()]),
        Target("mllp", lambda data: _hospital().say(data), hl7.documents, hl7.dictionary),
        Target("stays", partial(_of_object, one, ActKind.DECLARE), _stays, (b'"guest":{}', b'"override":{}')),
        Target("corrections", partial(_of_object, one, ActKind.CORRECT), _stays, (b'"guest":null', b"null")),
        Target("batch", partial(_of_rows, many, JSON), lambda: [b"[" + b",".join(_stays()) + b"]"]),
        Target("batch_lines", partial(_of_rows, many, NDJSON), lambda: [b"\n".join(_stays())]),
        Target("portal", partial(_of_portal, rows_body(StayDeclaration, BODY_BYTES, BATCH_ROWS)), _portal),
        Target("upload", partial(_of_upload, upload), _uploads, (b"\r\n--b", b"--b--", b'filename="')),
        Target("act_line", _of_line, _lines),
    )


def _cards() -> Sequence[bytes]:
    fields = ["000190734517", "000734517", "Nguyễn Thị QZXJW", "14051990", "Nữ", "Ngõ 7 QZXJW, Hưng Yên", "01052021"]
    whole = "|".join(fields)
    variants = [whole, whole.replace("|000734517", ""), "|".join(fields[:6]), f"{whole}||||", "]Q3" + whole + "\r\n"]
    return [each.encode() for each in (*variants, whole.replace("14051990", "14/05/1990"))]


def _zones() -> Sequence[bytes]:
    name = "NGUYEN<<THI<QZXJW"
    zones = [mrz.td3(name=name, number="T734517"), mrz.td2(name=name, number="T734517"),
             mrz.td1(name=name, number="T734517"), mrz.td1(name=name, number="T7345170000001"),
             mrz.back_of_card("000190734517", name=name),
             mrz.td3(name=name, birth="74<<<<").replace("\n", "")]  # fmt: skip
    return [each.encode() for each in zones]


def _uploads() -> Sequence[bytes]:
    field = b'--b\r\nContent-Disposition: form-data; name="facility"\r\n\r\nT-1\r\n'
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="QZXJW.csv"\r\nContent-Type: text/csv\r\n\r\n'
    return [field + head + b"QZXJW;1\r\n--b--\r\n", head + b"\r\n--b--"]


def _lines() -> Sequence[bytes]:
    return [to_json(each) for name in ("kbtt_api", "foreigner_xml") for document in CORPORA[name].documents()
            for each in installed()[name].read(document)]  # fmt: skip
