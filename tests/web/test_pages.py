"""The pages: a check shows facility, time and state, never the guest; a trial says so on every page and receipt."""

from __future__ import annotations

import re

import pytest

from asm_daemon.model import Facility, PrincipalKind
from asm_daemon.web.pages import receipt_page
from schemas.synthetic import person
from tests.stack import FacilityMaker, declaration
from tests.web.conftest import KeyMaker, Web

MARK = "THỬ NGHIỆM – KHÔNG CÓ GIÁ TRỊ PHÁP LÝ"


@pytest.mark.parametrize("path", ["/", "/docs", "/check", "/problems/not_found", "/nowhere"])
async def test_every_page_of_a_trial_says_that_it_has_no_legal_effect(asm: Web, path: str) -> None:
    answer = await asm.ask("GET", path, headers={"Accept": "text/html"})
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert MARK in answer.body.decode()


async def test_everything_that_a_page_loads_is_there(asm: Web) -> None:
    for path in ("/", "/docs", "/check"):
        page = (await asm.ask("GET", path)).body.decode()
        for loaded in re.findall(r'(?:src|href|data-document)="([^"]+)"', page):
            assert loaded.startswith("/"), loaded
            assert (await asm.ask("GET", loaded)).status == 200, loaded


async def test_a_code_that_stands_for_nothing_is_told_plainly(asm: Web) -> None:
    for code in ("00000-00000-00000", "NONSENSE", "1"):
        answer = await asm.ask("GET", f"/check/{code}")
        assert answer.status == 404
        assert "Không có biên nhận mang mã này" in answer.body.decode()


async def test_the_form_leads_to_the_code_and_only_there(asm: Web) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for sent, where in (
        (b"code=+0abcd-00000-00000+", "/check/0ABCD-00000-00000"),
        (b"code=%0d%0aSet-Cookie:x", "/check/SET-COOKIEX"),
        (b"code=//evil.example/", "/check/EVILEXAMPLE"),
        (b"code=%E2%80%94", "/check"),
        (b"", "/check"),
    ):
        answer = await asm.ask("POST", "/check", data=sent, headers=form)
        assert (answer.status, answer.headers["Location"]) == (303, where)
        assert "Set-Cookie" not in answer.headers
    for unfit in (b"code=1&code=2", b"name=1", b"code=%FF", b"\xff", b"code=" + b"1" * 2000):
        assert (await asm.ask("POST", "/check", data=unfit, headers=form)).problem[0] in (400, 413)


async def test_the_check_shows_facility_time_and_state_and_never_the_guest(
    asm: Web, owner_key: str, facility: Facility
) -> None:
    room, ref = "PHUONG", "GIAU"  # check codes have no U, so nothing else on the page looks like them
    stay = await asm.ask("POST", "/v1/stays", owner_key, json=declaration(1, source_ref=ref, room=room))
    code = stay.json["receipt"]["code"]
    for typed in (code, code.lower(), code.replace("-", "")):
        answer = await asm.ask("GET", f"/check/{typed}?utm_source=qr")
        page = answer.body.decode()
        assert answer.status == 200
        assert all(text in page for text in (code, facility.name, facility.authority, "Đang lưu trú"))
        who = person(1)
        assert not any(text in page for text in (who.full_name, who.document_number, who.birth_date, room, ref))
        assert answer.headers["Cache-Control"] == "no-store"
    await asm.ask("POST", f"{stay.headers['Location']}:cancel", owner_key, json={"reason": "other"})
    assert "Đã huỷ khai báo" in (await asm.ask("GET", f"/check/{code}")).body.decode()


async def test_a_receipt_prints_what_it_proves(asm: Web, owner_key: str, facility: Facility) -> None:
    stay = await asm.ask("POST", "/v1/stays", owner_key, json=declaration(9, source_ref="A-1"))
    receipt = stay.json["receipt"]
    for asked in ({"headers": {"Accept": "text/html"}}, {"params": {"format": "html"}}):
        answer = await asm.ask("GET", f"{stay.headers['Location']}/receipt", owner_key, **asked)
        page = answer.body.decode()
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
        assert MARK in page
        assert "NA17" in page
        assert "không làm mất hiệu lực" in page
        assert all(text in page for text in (receipt["code"], receipt["check_url"], facility.authority))
        assert 'src="data:image/svg+xml' in page
        assert person(9).full_name not in page


async def test_a_sandbox_receipt_is_marked_wherever_it_is_given(
    asm: Web, make_key: KeyMaker, make_facility: FacilityMaker
) -> None:
    key = await make_key(PrincipalKind.OWNER, await make_facility("HY-TEST-01", sandbox=True))
    receipt = (await asm.ask("POST", "/v1/stays", key, json=declaration(1))).json["receipt"]
    assert MARK in receipt["statement"]["vi"]
    assert MARK in (receipt_page(receipt).text or "")
    assert MARK not in (receipt_page({**receipt, "trial": False, "statement": {"vi": "", "en": ""}}).text or "")


async def test_what_stands_in_a_receipt_cannot_become_markup(asm: Web, owner_key: str) -> None:
    receipt = (await asm.ask("POST", "/v1/stays", owner_key, json=declaration(1))).json["receipt"]
    facility = {**receipt["facility"], "name": "<script>alert(1)</script>", "address": '"><img src=x>'}
    page = receipt_page({**receipt, "facility": facility}).text or ""
    assert "<script" not in page
    assert "<img src=x" not in page
