"""What every answer has in common: problems, languages, headers, ids, metrics, and a log without anybody in it."""

from __future__ import annotations

import asyncio
import io
from datetime import datetime

import orjson
import pytest

from asm_daemon.model import PrincipalKind
from asm_daemon.problems import PROBLEMS
from asm_daemon.web.rendering import language_of, prefers_html
from schemas.codes import TABLES
from schemas.violations import CATALOGUE
from tests.conftest import Database
from tests.stack import declaration
from tests.web.conftest import KeyMaker, Web


@pytest.mark.parametrize(
    ("method", "path", "problem"),
    [
        ("GET", "/nowhere", (404, "not_found")),
        ("GET", "/v1/stays/", (404, "not_found")),
        ("GET", "/static/../app.py", (404, "not_found")),
        ("GET", "/static/%2e%2e/app.py", (404, "not_found")),
        ("DELETE", "/v1/limits", (405, "method_not_allowed")),
        ("OPTIONS", "/v1/stays", (405, "method_not_allowed")),
        ("GET", "/v1/codes/people", (404, "not_found")),
        ("GET", "/problems/unheard_of", (404, "not_found")),
    ],
)
async def test_what_is_not_there_is_a_problem_too(asm: Web, method: str, path: str, problem: tuple[int, str]) -> None:
    answer = await asm.ask(method, path)
    assert answer.problem == problem
    assert answer.json["type"] == f"/problems/{problem[1]}"
    if problem[0] == 405:
        assert answer.headers["Allow"]


async def test_the_head_of_an_answer_can_be_asked_for_alone(asm: Web, owner_key: str) -> None:
    for path, key in (("/healthz", None), ("/v1/stays", owner_key)):
        answer = await asm.ask("HEAD", path, key)
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 0
    assert (await asm.ask("HEAD", "/v1/stays")).status == 401


async def test_an_error_of_ours_says_nothing_outside_and_everything_but_people_in_the_log(
    asm: Web, owner_key: str, monkeypatch: pytest.MonkeyPatch, logged: io.BytesIO
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(f"cannot take {declaration(1)}")

    monkeypatch.setattr("asm_daemon.intake.prepare", broken)
    answer = await asm.ask("POST", "/v1/stays", owner_key, json=declaration(1))
    assert answer.problem == (500, "internal")
    assert b"RuntimeError" not in answer.body
    line = next(line for line in logged.getvalue().splitlines() if b"request_failed" in line)
    assert orjson.loads(line)["request_id"] == answer.json["request_id"]
    assert b"RuntimeError" in line
    assert declaration(1)["guest"]["document"]["number"].encode() not in logged.getvalue()


async def test_a_database_that_is_away_is_an_answer_that_says_when_to_come_again(
    asm: Web, owner_key: str, database: Database
) -> None:
    assert (await asm.ask("GET", "/v1/stays", owner_key)).status == 200
    connection = await database.connect()
    await connection.execute("ALTER TABLE principals RENAME TO elsewhere")
    answer = await asm.ask("GET", "/v1/stays", owner_key)
    assert answer.problem == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0


async def test_a_database_that_goes_away_in_the_middle_is_an_answer_too(
    asm: Web, owner_key: str, database: Database
) -> None:
    blocker, watcher = await database.connect(), await database.connect()
    await blocker.execute("BEGIN; LOCK TABLE stays IN ACCESS EXCLUSIVE MODE")
    asking = asyncio.create_task(asm.ask("GET", "/v1/stays", owner_key))
    end_waiting = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND usename = 'asm_intake' AND wait_event_type = 'Lock'
    """
    async with asyncio.timeout(5):
        while await watcher.fetchval(end_waiting) == 0:
            await asyncio.sleep(0.01)
    await blocker.execute("ROLLBACK")
    answer = await asking
    assert answer.problem == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0


async def test_problems_speak_vietnamese_unless_english_is_preferred(asm: Web) -> None:
    vi = await asm.ask("GET", "/nowhere")
    en = await asm.ask("GET", "/nowhere", headers={"Accept-Language": "en-GB, vi;q=0.5"})
    assert (vi.json["title"], vi.headers["Content-Language"]) == (PROBLEMS["not_found"].title.vi, "vi")
    assert (en.json["title"], en.headers["Content-Language"]) == (PROBLEMS["not_found"].title.en, "en")


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "vi"),
        ("*", "vi"),
        ("en", "en"),
        ("fr, en;q=0.3", "en"),
        ("vi, en", "vi"),
        ("en;q=0.9, vi", "vi"),
        ("en-US,en;q=0.9,vi;q=0.8", "en"),
        ("en;q=x", "vi"),
        ("en;q=0", "vi"),
        (";;;,,,q", "vi"),
    ],
)
def test_a_language_is_chosen_by_its_weight(accept: str, language: str) -> None:
    assert language_of(accept) == language


def test_a_page_is_for_who_prefers_pages() -> None:
    assert prefers_html("text/html,application/xhtml+xml,*/*;q=0.8")
    assert not prefers_html("application/json, text/html;q=0.9")
    assert not prefers_html("*/*")
    assert not prefers_html("")


async def test_a_browser_that_is_lost_gets_a_page(asm: Web) -> None:
    answer = await asm.ask("GET", "/nowhere", headers={"Accept": "text/html"})
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "Không tìm thấy".encode() in answer.body
    assert (await asm.ask("GET", "/v1/nowhere", headers={"Accept": "text/html"})).problem == (404, "not_found")


async def test_a_request_keeps_the_trace_id_of_its_caller(asm: Web, logged: io.BytesIO) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    given = await asm.ask("GET", "/nowhere", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert (given.headers["X-Request-Id"], given.json["request_id"]) == (trace, trace)
    assert trace.encode() in logged.getvalue()
    for unfit in ("", f"00-{'0' * 32}-00f067aa0ba902b7-01", "x" * 55):
        made = (await asm.ask("GET", "/nowhere", headers={"traceparent": unfit})).headers["X-Request-Id"]
        assert len(made) == 32
        assert made not in (trace, "0" * 32)


async def test_every_answer_carries_the_headers_that_protect_it(asm: Web, owner_key: str) -> None:
    for path in ("/", "/v1/limits", "/nowhere", "/static/asm.css", "/v1/stays", "/openapi.json"):
        headers = (await asm.ask("GET", path, owner_key)).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"], path
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["ASM-Environment"] == "trial"
        assert headers["Server"] == "asm"
        assert len(headers["X-Request-Id"]) == 32


async def test_the_access_log_names_the_route_and_never_the_address(
    asm: Web, owner_key: str, logged: io.BytesIO
) -> None:
    await asm.ask("GET", "/check/SECRET-CODE-1?who=SECRET", headers={"X-Secret": "SECRET"})
    await asm.ask("GET", "/SECRET/path")
    await asm.ask("GET", "/v1/stays?source_ref=SECRET", owner_key)
    lines = [orjson.loads(line) for line in logged.getvalue().splitlines()]
    requests = [(each["method"], each["route"], each["status"]) for each in lines if each["event"] == "request"]
    assert requests == [("GET", "/check/{code}", 404), ("GET", "unknown", 404), ("GET", "/v1/stays", 200)]
    assert b"SECRET" not in logged.getvalue()
    assert owner_key.encode() not in logged.getvalue()


async def test_metrics_count_routes_and_nothing_about_people(asm: Web, owner_key: str, make_key: KeyMaker) -> None:
    stay = await asm.ask("POST", "/v1/stays", owner_key, json=declaration(1, source_ref="M-1"))
    await asm.ask("GET", stay.headers["Location"], owner_key)
    metrics = (await asm.ask("GET", "/metrics", await make_key(PrincipalKind.OPERATOR))).body.decode()
    assert 'asm_http_requests_total{method="GET",route="/v1/stays/{stay_id}",status="200"}' in metrics
    assert stay.json["stay_id"] not in metrics
    assert "HY-KS" not in metrics


# -- reference data ----------------------------------------------------------------------------------------------------


async def test_the_limits_are_told_with_the_daemons_clock(asm: Web) -> None:
    limits = (await asm.ask("GET", "/v1/limits")).json
    assert (limits["environment"], limits["batch_rows"], limits["declare_before"]) == ("trial", 50, "23:00")
    assert datetime.fromisoformat(limits["now"]).tzinfo is not None
    ages = {kind: rule["below_age"] for rule in limits["minors"] for kind in rule["facility_kinds"]}
    assert (len(ages), ages["guesthouse"], ages["medical_facility"]) == (10, 14, 16)
    assert limits["connectors"] == [
        "dorm_roster",
        "foreigner_xml",
        "hl7_adt",
        "kbtt_api",
        "official_xlsx",
        "pms_apaleo",
        "pms_mews",
        "pms_ohip",
        "pms_ota",
        "spreadsheet",
    ]


async def test_a_code_table_is_sent_once(asm: Web) -> None:
    for summary in (await asm.ask("GET", "/v1/codes")).json["tables"]:
        first = await asm.ask("GET", f"/v1/codes/{summary['name']}")
        assert (first.status, len(first.json["rows"])) == (200, summary["rows"])
        tag = first.headers["ETag"]
        for given in (tag, f"W/{tag}", f'"x", {tag}'):
            again = await asm.ask("GET", f"/v1/codes/{summary['name']}", headers={"If-None-Match": given})
            assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        other = await asm.ask("GET", f"/v1/codes/{summary['name']}", headers={"If-None-Match": '"x"'})
        assert other.status == 200
    assert len(TABLES) == len((await asm.ask("GET", "/v1/codes")).json["tables"])


async def test_every_problem_and_violation_is_listed_and_explained(asm: Web) -> None:
    listed = (await asm.ask("GET", "/v1/problems")).json
    assert [each["code"] for each in listed["problems"]] == list(PROBLEMS)
    assert [each["code"] for each in listed["violations"]] == list(CATALOGUE)
    for each in listed["problems"]:
        page = await asm.ask("GET", f"/problems/{each['code']}")
        assert page.status == 200
        assert each["title"]["en"].encode() in page.body or b"&#39;" in page.body


async def test_readiness_names_the_check_that_fails(asm: Web) -> None:
    assert (await asm.ask("GET", "/readyz")).json == {"ready": True, "checks": {"database": "ok"}}
    asm.failing.add("database")
    answer = await asm.ask("GET", "/readyz")
    assert (answer.status, answer.json) == (503, {"ready": False, "checks": {"database": "failed"}})
    assert (await asm.ask("GET", "/healthz")).status == 200
