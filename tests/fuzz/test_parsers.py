"""The short form of `make fuzz`, with the same inputs every time: damaged documents, and what was found once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asm_daemon.decisions import Command, prepare
from schemas.act import Act, ActKind, Unreadable, to_json
from schemas.codes import FacilityKind
from schemas.violations import Violation, violation
from tests.fuzz import oracle
from tests.fuzz.mutate import mutants
from tests.fuzz.oracle import Finding, check, check_results
from tests.fuzz.targets import CORPORA, MARKS, installed, targets, workbook_of

ROOT = Path(__file__).resolve().parents[2]
REGRESSIONS = Path(__file__).with_name("regressions")
MUTANTS = 100
TARGETS = targets()
IN_PROCESS = [name for name, target in TARGETS.items() if not target.archives]
PROPERTIES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)


@pytest.mark.parametrize("name", IN_PROCESS)
def test_damaged_documents_are_read_or_refused_with_a_reason(name: str) -> None:
    target = TARGETS[name]
    for data in mutants(20261123, MUTANTS, target.seeds(), target.dictionary):
        check(target, data)


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once_is_not_found_again(path: Path) -> None:
    check(TARGETS[path.parent.name.replace("-", ":")], path.read_bytes())


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"upload", "act_line"}))  # these give no acts
def test_every_target_begins_with_sound_inputs(name: str) -> None:
    target = TARGETS[name]
    acts = [result for seed in target.seeds() for result in target.read(seed) if isinstance(result, Act)]
    assert any(not act.violations for act in acts)
    held = b"".join(orjson.dumps(act.fields) + orjson.dumps(act.match) for act in acts).decode()
    assert any(mark in held for mark in MARKS)


def test_every_connector_is_a_target() -> None:
    assert set(installed()) == {name.partition(":")[0] for name in TARGETS} & set(installed())
    assert set(CORPORA) <= set(installed())


def test_sound_declarations_pass_the_preparation_that_the_oracle_makes() -> None:
    for seed in TARGETS["stays"].seeds()[:-1]:
        [act] = TARGETS["stays"].read(seed)
        assert isinstance(act, Act)
        command = Command(oracle.facility(FacilityKind.GUESTHOUSE), act, oracle.NOW, "fuzz")
        assert prepare(oracle.keyring(), command).declared


# -- the oracle itself -------------------------------------------------------------------------------------------------

_SOUND = Act(ActKind.CHECK_OUT, {"departed_at": "2026-11-23T09:00:00+07:00"}, 1, "S-1")
_MARKED = Violation("required", "/guest", f"Thiếu {MARKS[0]}", "Missing")


@pytest.mark.parametrize(
    "result",
    [
        None,
        Unreadable(1, ()),
        Unreadable(1, (Violation("required", "", "", "This is required."),)),
        Unreadable(1, (_MARKED,)),
        Unreadable(1, (violation("required", place=f"cột {MARKS[1]}"),)),
        Unreadable(1, (violation("required", place="x" * 301),)),
        Act(ActKind.DECLARE, {}, 1, warnings=(_MARKED,)),
        Act(ActKind.DECLARE, {}, 1, origin={"/guest": MARKS[0].lower()}),
        Act(ActKind.DECLARE, {1: "a"}, 1),  # type: ignore[dict-item]
    ],
    ids=["nothing", "no reason", "no words", "a name", "a number", "a long place", "a warning", "an origin", "a key"],
)
def test_the_oracle_finds_what_breaks_a_promise(result: Act | Unreadable) -> None:
    check_results([_SOUND])
    with pytest.raises((Finding, TypeError)):
        check_results([_SOUND, result])


def test_the_same_numbers_make_the_same_inputs() -> None:
    seeds = TARGETS["stays"].seeds()
    assert list(mutants(7, 50, seeds)) == list(mutants(7, 50, seeds))
    assert len(set(mutants(7, 50, seeds))) > 40


# -- properties --------------------------------------------------------------------------------------------------------

_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20)
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner), max_leaves=8
)
_PORTAL = ("hoTen", "gioiTinh", "ngayThangNamSinhStr", "loaiNgayThangNamSinh", "loaiGiayTo", "soGiayTo", "soDienThoai",
           "noiCuTru", "maTT", "maPX", "diaChi", "ngayDenCsltStr", "ngayDiDuKienStr", "soPhong", "lyDoCuTru",
           "quocTich", "lyDoChiTiet", "ghiChu", "soHoChieu", "thoiHanTamTruStr", "loai", "thoiGianStr")  # fmt: skip
_CELLS = st.text(max_size=20) | st.sampled_from(
    (
        "",
        "000190734517",
        "23/11/2026",
        "31/02/2026 25:61",
        "1",
        "VNM",
        "Nam",
        "#1e308",
        "#-1",
        "@-1",
        "@1e9",
        "@45000.99",
        "!",
        "?2",
    )
)


@PROPERTIES
@given(st.binary(max_size=400), st.sampled_from(IN_PROCESS))
def test_any_bytes_are_read_or_refused(data: bytes, name: str) -> None:
    check(TARGETS[name], data)


@settings(PROPERTIES, max_examples=25)
@given(st.lists(st.dictionaries(st.sampled_from(_PORTAL), _VALUES, max_size=8), max_size=2))
def test_any_values_of_a_portal_row_are_read_or_refused(rows: list[dict[str, object]]) -> None:
    for name in ("kbtt_api", "portal"):
        check(TARGETS[name], orjson.dumps(rows))


@PROPERTIES
@given(st.integers(0, 5), st.sampled_from(("guest", "arrived_at", "room", "reason", "override", "note")), _VALUES)
def test_any_value_in_place_of_a_sound_one_is_taken_or_refused(seed: int, member: str, value: object) -> None:
    fields = {**orjson.loads(TARGETS["stays"].seeds()[seed]), member: value}
    for name in ("stays", "corrections"):
        check(TARGETS[name], orjson.dumps(fields))


@PROPERTIES
@given(
    st.lists(st.lists(_CELLS, max_size=19), max_size=4), st.sampled_from(sorted(n for n in TARGETS if ":cells" in n))
)
def test_any_cells_below_a_sound_heading_are_read_or_refused(rows: list[list[str]], name: str) -> None:
    heading = (
        TARGETS[name].seeds()[0].splitlines()[:4] if "official" in name else TARGETS[name].seeds()[0].splitlines()[:1]
    )
    lines = [
        "\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in cells).encode("utf-8", "replace")
        for cells in rows
    ]
    check(TARGETS[name], b"\n".join([*heading, *lines]))


@PROPERTIES
@given(st.text(max_size=100) | st.lists(st.text(max_size=12), min_size=5, max_size=8).map("|".join))
def test_any_payload_of_a_scanner_is_read_or_refused(payload: str) -> None:
    for name in ("cccd_qr", "mrz", "payload"):
        check(TARGETS[name], payload.encode("utf-8", "surrogatepass"))


@PROPERTIES
@given(st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789<", min_size=88, max_size=90))
def test_any_characters_of_a_zone_are_read_or_refused(zone: str) -> None:
    for written in (zone[:88], zone[:72], f"{zone[:30]}\n{zone[30:60]}\n{zone[60:90]}"):
        check(TARGETS["mrz"], written.encode())


@PROPERTIES
@given(
    st.lists(st.lists(st.text(max_size=12), max_size=40), min_size=1, max_size=5),
    st.sampled_from(("A01", "A03", "A08")),
)
def test_any_fields_of_a_message_are_read_or_refused(segments: list[list[str]], event: str) -> None:
    names = ("EVN", "PID", "PV1", "PV2", "NK1")
    lines = [f"MSH|^~\\&|H|B|A|T|20261123||ADT^{event}|1|P|2.5||||||UNICODE UTF-8"]
    lines += ["|".join((name, *fields)) for name, fields in zip(names, segments, strict=False)]
    check(TARGETS["hl7_adt"], "\r".join(lines).encode("utf-8", "replace"))


def test_the_workbooks_of_the_cell_targets_hold_what_was_asked_for() -> None:
    [fault] = TARGETS["official_xlsx:archive"].read(workbook_of(b"\t\n" * 3))
    assert isinstance(fault, Unreadable)
    assert [each.code for each in fault.violations] == ["no_rows"]
    assert to_json(fault)


# -- the long form -----------------------------------------------------------------------------------------------------


def test_the_long_form_runs_a_target_in_a_process_of_its_own_and_counts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "1", "--target", "act_line", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    [figures] = orjson.loads(done.stdout)["targets"]
    assert figures["target"] == "act_line"
    assert figures["executions"] > 0
    assert figures["findings"] == []


def test_an_archive_that_kills_its_reader_is_counted_and_is_no_finding(tmp_path: Path) -> None:
    killing = (
        "from pathlib import Path; from tests.connectors.test_child import BOOKS, two_cells;"
        "from tests.fuzz.child import Watch; Path('findings').mkdir();"
        "watch = Watch('spreadsheet:archive', Path(), '');"
        "watch.feed_archive(two_cells(BOOKS['spreadsheet'])); watch.feed_archive(BOOKS['official_xlsx']);"
        "print(watch.figures.ended_by_limits, watch.figures.acts, len(watch.figures.findings))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", killing]
    done = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path, env=environment)
    assert done.stdout.split() == [b"1", b"1", b"0"]
