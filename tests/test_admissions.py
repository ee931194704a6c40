"""Hospital messages on a real database: what is refused and why first, then every event of a stay, then repetition."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from asm_daemon import admissions, directory
from asm_daemon.admissions import Admissions
from asm_daemon.crypto import Keyring
from asm_daemon.daemon import mllp_tls
from asm_daemon.directory import Actor, Gate, RefusedMessage
from asm_daemon.intake import Intake
from asm_daemon.mllp import Limits, Peer, Reply, listen
from asm_daemon.model import Facility
from asm_daemon.problems import Refused
from connectors import hl7_adt
from schemas.codes import FacilityKind
from schemas.hospital import HospitalProfile
from tests.certificates import Authority, Issued
from tests.conftest import Database
from tests.stack import TESTER, Clock, FacilityMaker, Pools

NAMES = ("HIS-MAU", "BV-MAU-01")
NOBODY = Peer("127.0.0.1", None)
ADMITTED = "202611230810"
PERSON = "BN77^^^BV01^MR~000190000001^^^BCA^NI||Nguyễn^Thử^Thị^^^^L||19900514|F"
UNKNOWN = "BN77^^^BV01^MR||||"
NK1 = "NK1|1|Trần^Mẫu^Văn|SPO||||LUUTRU||||||||M|19880102" + "|" * 17 + "000188000002^^^^NI"


def adt(
    event: str,
    control_id: str = "M1",
    *,
    pid: str = PERSON,
    room: str = "NOI^203^2",
    visit: str = "VS1",
    admitted: str = ADMITTED,
    left: str = "",
    more: tuple[str, ...] = (),
    patient_class: str = "I",
) -> bytes:
    """One message; `more` are further segments."""
    lines = (
        rf"MSH|^~\&|HIS-MAU|BV-MAU-01|ASM|HY|20261123081500||ADT^{event}|{control_id}|P|2.5||||||UNICODE UTF-8",
        f"EVN|{event}|20261123081400",
        f"PID|1||{pid}",
        f"PV1|1|{patient_class}|{room}||||||||||||||||{visit}|||||||||||||||||||||||||{admitted}|{left}",
        *more,
    )
    return "\r".join(lines).encode()


@dataclass
class Ward:
    """A hospital whose messages are taken in, and what the database holds afterwards."""

    admissions: Admissions
    facility: Facility
    connection: asyncpg.Connection
    pools: Pools
    clock: Clock
    keyring: Keyring
    count: int = field(default=0)

    async def send(self, message: bytes, peer: Peer = NOBODY) -> Reply:
        return await self.admissions.handle(message, self.clock(), peer)

    async def say(self, event: str, **parts: Any) -> Reply:
        """Send a message of this event under a control id of its own."""
        self.count += 1
        return await self.send(adt(event, f"C{self.count}", **parts))

    async def stays(self) -> list[tuple[str, str, int]]:
        """(status, last event, version) of every stay, in the order of their registration."""
        rows = await self.connection.fetch("SELECT status, event, version FROM stays ORDER BY id")
        return [tuple(row) for row in rows]

    async def pending(self) -> list[tuple[str, bool]]:
        """(state, present) of everybody who is expected."""
        rows = await self.connection.fetch("SELECT state, present FROM expected_stays ORDER BY id")
        return [tuple(row) for row in rows]

    async def refused(self) -> list[RefusedMessage]:
        pool = await self.pools.get("asm_auth")
        found = (await directory.refused_messages(pool, Actor("operator:test", self.keyring), self.clock()))[1]
        [entry] = await self.connection.fetch("SELECT body FROM audit_pending ORDER BY arrival DESC LIMIT 1")
        body = orjson.loads(entry["body"])
        assert (body["action"], body["details"]["count"]) == ("sender.refused.list", len(found))
        return found

    async def assign(self, **settings: Any) -> None:
        pool = await self.pools.get("asm_auth")
        await directory.assign_sender(pool, TESTER, *NAMES, self.facility.code, self.clock(), **settings)


@pytest.fixture
async def ward(
    pools: Pools, database: Database, keyring: Keyring, intake: Intake, clock: Clock, make_facility: FacilityMaker
) -> Ward:
    facility = await make_facility("HY-YT-0001", FacilityKind.MEDICAL_FACILITY)
    gate = Gate(await pools.get("asm_auth"), 0)
    taking = Admissions(intake, gate, keyring, await pools.get("asm_intake"), hl7_adt.read_message)
    made = Ward(taking, facility, await database.connect(), pools, clock, keyring)
    await made.assign()
    return made


def declared(reply: Reply) -> bool:
    """Whether the answer is a receipt's code."""
    return reply.code == "AA" and "/" not in reply.text and len(reply.text) > 4


# -- what is refused, and that it is kept as refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code", "control_id", "reasons"),
    [
        (b"\xff\xfe garbage", "AR", "", ["not_hl7 MSH"]),
        (adt("A01", "X1").replace(b"HIS-MAU", b"ANOTHER"), "AR", "X1", ["unknown_sender MSH-3"]),
        (adt("A17", "X2"), "AR", "X2", ["unsupported_event MSH-9"]),
        (adt("A01", "X3").partition(b"\rPV1")[0], "AR", "X3", ["missing_segment PV1"]),
        (adt("A01", "X4").replace("Nguyễn".encode(), b"Nguy\xffn"), "AE", "X4", ["undecodable MSH-18"]),
        (adt("A01", "X5", pid=PERSON.replace("19900514", "19901414")), "AE", "X5", ["wrong_date PID-7"]),
        (adt("A03", "X6", left="20261124"), "AE", "X6", ["not_found"]),
        (adt("A13", "X7"), "AE", "X7", ["not_found"]),
        (adt("A01", "X8", patient_class="NT"), "AE", "X8", ["unknown_code PV1-2"]),
    ],
)
async def test_what_is_refused_is_kept_as_its_control_id_places_and_reasons(
    ward: Ward, message: bytes, code: str, control_id: str, reasons: list[str]
) -> None:
    reply = await ward.send(message)
    assert (reply.code, bool(reply.text)) == (code, True)
    [kept] = await ward.refused()
    assert (kept.code, kept.control_id, kept.reasons, kept.times) == (code, control_id, reasons, 1)
    assert await ward.stays() == []


async def test_nothing_that_a_refused_message_said_is_kept(ward: Ward) -> None:
    secrets = ("Nguyễn", "Thử", "000190000001", "19901414", "Z99", "Bí mật")
    await ward.say("A01", pid=PERSON.replace("19900514", "19901414"), more=("DG1|1||Z99^Bí mật",))
    [row] = await ward.connection.fetch("SELECT * FROM hl7_messages")
    kept = " ".join(map(str, row.values()))
    assert "PID-7" in kept
    assert not [secret for secret in secrets if secret in kept]


async def test_a_sender_that_is_bound_to_a_certificate_is_heard_with_no_other(ward: Ward) -> None:
    await ward.assign(certificate_sha256=sha256(b"theirs").digest())
    for peer in (NOBODY, Peer("127.0.0.1", b"another")):
        assert (await ward.send(adt("A01"), peer)).code == "AR"
    [kept] = await ward.refused()
    assert (kept.reasons, kept.times) == (["wrong_certificate TLS"], 2)
    assert declared(await ward.send(adt("A01"), Peer("127.0.0.1", b"theirs")))


async def test_what_intake_cannot_answer_now_is_not_answered_and_not_remembered(ward: Ward, intake: Intake) -> None:
    await intake.close()
    with pytest.raises(Refused, match="unavailable"):
        await ward.say("A01")
    assert await ward.connection.fetchval("SELECT count(*) FROM hl7_messages") == 0


async def test_a_refused_message_that_comes_again_is_looked_at_again(ward: Ward) -> None:
    discharge = adt("A03", "D1", left="20261124")
    assert (await ward.send(discharge)).code == "AE"  # it overtook its admission
    assert declared(await ward.say("A01"))
    assert declared(await ward.send(discharge))
    assert await ward.refused() == []
    assert await ward.stays() == [("departed", "check_out", 2)]


# -- every event of a stay ---------------------------------------------------------------------------------------------


async def test_a_stay_from_admission_to_discharge_and_back(ward: Ward) -> None:
    assert declared(await ward.say("A01"))
    assert declared(await ward.say("A02", room="NGOAI^101^1"))
    assert declared(await ward.say("A12", room="NOI^203^2"))
    assert declared(await ward.say("A08", pid=PERSON.replace("Nguyễn", "Nguyen")))
    assert declared(await ward.say("A03", left="20261125085500"))
    assert await ward.stays() == [("departed", "check_out", 5)]
    assert declared(await ward.say("A13"))
    assert declared(await ward.say("A11"))
    assert await ward.stays() == [("cancelled", "cancel", 7)]


@pytest.mark.parametrize("event", ["A07", "A11"])
async def test_an_admission_is_undone_and_what_never_was_needs_no_undoing(ward: Ward, event: str) -> None:
    assert "never declared" in (await ward.say(event)).text
    await ward.say("A06")
    assert declared(await ward.say(event, patient_class="O" if event == "A07" else "I"))
    assert await ward.stays() == [("cancelled", "cancel", 2)]


async def test_what_follows_a_cancelled_stay_does_not_stop_the_queue(ward: Ward) -> None:
    await ward.say("A01")
    await ward.say("A11")
    for event in ("A02", "A08", "A03"):
        reply = await ward.say(event, room="NGOAI^1", left="20261125")
        assert (reply.code, "cancelled" in reply.text) == ("AA", True)
    assert (await ward.say("A13")).code == "AE"  # says that somebody is there whose stay was cancelled


@pytest.mark.parametrize(
    ("event", "patient_class"), [("A04", "O"), ("A01", "O"), ("A08", "R"), ("A03", "P"), ("A31", "I")]
)
async def test_who_does_not_stay_overnight_leaves_nothing(ward: Ward, event: str, patient_class: str) -> None:
    reply = await ward.say(event, patient_class=patient_class)
    assert (reply.code, "no overnight stay" in reply.text) == ("AA", True)
    assert await ward.stays() == []


async def test_a_patient_who_is_there_under_another_visit_does_not_stop_the_queue(ward: Ward) -> None:
    await ward.say("A01")
    reply = await ward.say("A01", visit="VS2")
    assert (reply.code, "already declared" in reply.text) == ("AA", True)


async def test_an_admission_sent_again_with_other_content_is_a_correction(ward: Ward) -> None:
    await ward.say("A01")
    assert declared(await ward.say("A01", room="NGOAI^101^1"))
    assert await ward.stays() == [("declared", "correct", 2)]


@pytest.mark.parametrize("event", ["A08", "A02"])
async def test_news_of_a_stay_whose_admission_never_came_declares_it(ward: Ward, event: str) -> None:
    assert declared(await ward.say(event))
    assert await ward.stays() == [("declared", "declare", 1)]


@pytest.mark.parametrize("parts", [{"admitted": ""}, {"left": "20261124"}])
async def test_news_that_does_not_say_since_when_somebody_is_there_is_refused(
    ward: Ward, parts: dict[str, str]
) -> None:
    assert (await ward.say("A08", **parts)).code == "AE"
    assert await ward.stays() == []


async def test_which_classes_stay_overnight_is_the_facilitys_own(ward: Ward) -> None:
    await ward.assign(profile=HospitalProfile(overnight_classes=("O",)))
    assert (await ward.say("A01")).text.endswith("no overnight stay")
    assert declared(await ward.say("A01", patient_class="O"))


# -- patients without identity -----------------------------------------------------------------------------------------


async def test_a_patient_without_identity_is_acknowledged_as_pending_and_completed_by_an_update(ward: Ward) -> None:
    reply = await ward.say("A01", pid=UNKNOWN)
    assert reply.code == "AA"
    assert "identity pending: " in reply.text
    assert "hạn / due 23/11/2026 23:00" in reply.text
    assert (await ward.stays(), await ward.pending()) == ([], [("open", True)])
    assert "identity pending: " in (await ward.say("A08", pid="BN77^^^BV01^MR||Nguyễn^Thử^Thị")).text
    assert declared(await ward.say("A08"))
    assert (await ward.stays(), await ward.pending()) == ([("declared", "declare", 1)], [])


async def test_a_merge_gives_an_unknown_patient_their_identity(ward: Ward) -> None:
    await ward.say("A01", pid="TMP9^^^BV01^MR||||")
    merge = adt("A40", "M40").partition(b"\rPV1")[0] + b"\rMRG|TMP9^^^BV01^MR"
    assert declared(await ward.send(merge))
    assert (await ward.stays(), await ward.pending()) == ([("declared", "declare", 1)], [])


async def test_after_a_merge_a_declared_stay_is_found_by_the_new_number_and_no_longer_by_the_old(ward: Ward) -> None:
    def merge(control_id: str, new: str, old: str) -> bytes:
        pid = PERSON.replace("BN77", new)
        return adt("A40", control_id, pid=pid).partition(b"\rPV1")[0] + f"\rMRG|{old}^^^BV01^MR".encode()

    assert declared(await ward.say("A01", pid=PERSON.replace("BN77", "TMP9")))
    assert (await ward.send(merge("M40", "BN77", "TMP9"))).code == "AA"
    assert "nobody in house" in (await ward.send(merge("M41", "BN78", "TMP9"))).text
    reply = await ward.send(merge("M42", "BN78", "BN77"))
    assert (reply.code, "nobody in house" in reply.text) == ("AA", False)


async def test_a_merge_of_somebody_who_is_not_there_does_not_stop_the_queue(ward: Ward) -> None:
    reply = await ward.send(adt("A40").partition(b"\rPV1")[0] + b"\rMRG|TMP9^^^BV01^MR")
    assert (reply.code, "nobody in house" in reply.text) == ("AA", True)


async def test_an_unknown_patient_who_leaves_is_declared_and_checked_out_once_known(ward: Ward) -> None:
    await ward.say("A01", pid=UNKNOWN)
    assert (await ward.say("A03", pid=UNKNOWN, left="20261124")).code == "AA"
    assert declared(await ward.say("A08"))
    assert await ward.stays() == [("departed", "check_out", 2)]


async def test_an_unknown_patient_who_was_not_admitted_after_all_is_expected_no_more(ward: Ward) -> None:
    await ward.say("A01", pid=UNKNOWN)
    assert (await ward.say("A11", pid=UNKNOWN)).code == "AA"
    assert await ward.pending() == [("ended", True)]


# -- relatives ---------------------------------------------------------------------------------------------------------


async def test_relatives_who_stay_are_declared_and_leave_with_the_patient(ward: Ward) -> None:
    await ward.assign(profile=HospitalProfile(relative_role="LUUTRU"))
    other = NK1.replace("NK1|1", "NK1|2").replace("000188000002", "000188000003").replace("Mẫu^Văn", "Mẫu^Thị")
    await ward.say("A01", more=(NK1,))
    assert (await ward.say("A08", more=(NK1, other))).code == "AA"
    assert [status for status, _, _ in await ward.stays()] == ["declared"] * 3
    assert (await ward.say("A03", left="20261125")).code == "AA"
    assert [status for status, _, _ in await ward.stays()] == ["departed"] * 3


async def test_what_is_wrong_with_a_relative_is_told_and_the_patient_is_declared_all_the_same(ward: Ward) -> None:
    await ward.assign(profile=HospitalProfile(relative_role="LUUTRU"))
    reply = await ward.say("A01", more=(NK1.replace("19880102", "19881302"),))
    assert (reply.code, "NK1[1]-16" in reply.text) == ("AE", True)
    assert await ward.stays() == [("declared", "declare", 1)]


async def test_a_relative_without_identity_waits_and_leaves_with_the_patient(ward: Ward) -> None:
    await ward.assign(profile=HospitalProfile(relative_role="LUUTRU"))
    assert "NK1[1]-33" in (await ward.say("A01", more=("NK1|1|Trần^Mẫu|SPO||||LUUTRU",))).text
    assert (await ward.say("A11")).code == "AA"
    assert await ward.pending() == [("ended", True)]


# -- repetition --------------------------------------------------------------------------------------------------------


async def test_the_same_message_gets_the_same_answer_and_does_nothing_twice(ward: Ward) -> None:
    await ward.say("A01")
    transfer = adt("A02", "T1", room="NGOAI^101^1")
    first = await ward.send(transfer)
    await ward.say("A02", room="CC^1^1")
    assert await ward.send(transfer) == first  # it does not bring the patient back
    assert await ward.stays() == [("declared", "correct", 3)]


async def test_a_control_id_that_is_used_again_makes_another_message(ward: Ward) -> None:
    for room in ("NOI^203^2", "NGOAI^101^1", "CC^1^1"):
        assert declared(await ward.send(adt("A01" if room.startswith("NOI") else "A02", "1", room=room)))
    assert await ward.stays() == [("declared", "correct", 3)]


async def test_a_message_whose_answer_was_lost_is_answered_with_the_same_receipt(ward: Ward) -> None:
    first = await ward.say("A01")
    await ward.connection.execute("DELETE FROM hl7_messages")  # committed, and then the daemon died
    assert await ward.send(adt("A01", "C1")) == first
    assert await ward.stays() == [("declared", "declare", 1)]


async def test_answers_are_forgotten_after_some_days(ward: Ward) -> None:
    await ward.say("A01")
    await ward.say("A17")
    pool = await ward.pools.get("asm_retention")
    later = datetime.now(UTC) + timedelta(days=30, minutes=1)
    assert await admissions.erase_once(pool, later, days=31) == {"erased": 0}
    assert await admissions.erase_once(pool, later, days=30) == {"erased": 2}
    assert await ward.connection.fetchval("SELECT count(*) FROM hl7_messages") == 0


@pytest.mark.parametrize("role", ["asm_police", "asm_sync", "asm_publish", "asm_feeds", "asm_guest", "asm_audit"])
async def test_nobody_else_reads_what_was_answered(database: Database, role: str) -> None:
    connection = await database.connect(role)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch("SELECT * FROM hl7_messages")


# -- over the wire -----------------------------------------------------------------------------------------------------


async def converse(ward: Ward, *frames: bytes) -> list[str]:
    """What the listener answers to these frames on one connection, without the frames around it."""
    listener = await listen(
        ward.admissions.handle,
        "127.0.0.1",
        0,
        limits=Limits(frame_bytes=8_000, batch_messages=3),
        split=hl7_adt.split_batch,
        refuse=ward.admissions.refused,
    )
    try:
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(b"".join(frames))
            answers = [await reader.readuntil(b"\x1c\r") for _ in frames]
            writer.close()
    finally:
        await listener.stop(grace_seconds=5)
    return [answer[1:-2].decode() for answer in answers]


def framed(*messages: bytes, header: bytes = b"", trailer: bytes = b"") -> bytes:
    return b"\x0b" + b"\r".join(filter(None, (header, *messages, trailer))) + b"\x1c\r"


HEADER = rb"BHS|^~\&|HIS-MAU|BV-MAU-01|ASM|HY|20261123||||B7"


async def test_a_batch_is_answered_by_an_acknowledgement_of_each_message(ward: Ward) -> None:
    messages = (adt("A01", "B1"), adt("A17", "B2"), adt("A03", "B3", left="20261124"))
    [answer] = await converse(ward, framed(*messages, header=rb"FHS|^~\&|" + b"\r" + HEADER, trailer=b"BTS|3\rFTS|1"))
    lines = answer.removesuffix("\r").split("\r")
    assert [line[:3] for line in lines] == ["FHS", "BHS", *["MSH", "MSA"] * 3, "BTS", "FTS"]
    assert [line.split("|")[1:3] for line in lines if line.startswith("MSA")] == [
        ["AA", "B1"], ["AR", "B2"], ["AA", "B3"],
    ]  # fmt: skip
    assert lines[1].split("|")[11] == "B7"
    assert lines[-2] == "BTS|3"
    assert await ward.stays() == [("departed", "check_out", 2)]


@pytest.mark.parametrize(
    "frame",
    [
        framed(adt("A01"), header=HEADER),
        framed(adt("A01"), header=HEADER, trailer=b"BTS|2"),
        framed(*[adt("A01")] * 4, header=HEADER, trailer=b"BTS|4"),
        framed(header=HEADER, trailer=b"BTS|0"),
        framed(adt("A01") + b"x" * 9_000),
        b"no start block\x1c\r",
    ],
)
async def test_a_frame_that_is_no_message_is_refused_kept_as_refused_and_the_next_one_taken(
    ward: Ward, frame: bytes
) -> None:
    refused, taken = await converse(ward, frame, framed(adt("A01", "NEXT")))
    assert "MSA|AR|" in refused
    assert "MSA|AA|NEXT|" in taken
    [kept] = await ward.refused()
    assert (kept.code, kept.reasons) == ("AR", ["not_hl7 MLLP"])


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message.replace(b"\r", b"\n"),
        lambda message: message.replace(b"\r", b"\r\n"),
        lambda message: b"\xef\xbb\xbf" + message,
        lambda message: b"\r\n" + message + b"\r\n\r\n",
        lambda message: message.replace(b"|P|2.5||||||UNICODE UTF-8", b""),
    ],
    ids=["LF", "CRLF", "BOM", "blank lines", "short header"],
)
async def test_senders_have_their_habits(ward: Ward, change: Any) -> None:
    [answer] = await converse(ward, framed(change(adt("A01", "H1"))))
    assert "MSA|AA|H1|" in answer
    assert await ward.stays() == [("declared", "declare", 1)]


# -- over TLS ----------------------------------------------------------------------------------------------------------


async def answered_over_tls(port: int, message: bytes, authority: Authority, client: Issued | None) -> str:
    """MSA-1 of the answer; empty if the listener hangs up instead."""
    context = ssl.create_default_context(cafile=authority.certificate)
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    writer = None
    try:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            writer.write(framed(message))
            answer = (await reader.readuntil(b"\x1c\r")).decode()
    except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
        return ""
    finally:
        if writer is not None:
            writer.close()
    return answer.split("MSA|", 1)[1][:2]


async def test_hospitals_show_a_certificate_and_a_bound_sender_its_own(ward: Ward, tmp_path: Path) -> None:
    authority, strangers = Authority(tmp_path), Authority(tmp_path, "strangers")
    server, hospital, other = (authority.issue(name) for name in ("localhost", "hospital", "other"))
    await ward.assign(certificate_sha256=hospital.fingerprint)
    context = mllp_tls(server.certificate, server.key, authority.certificate)
    listener = await listen(ward.admissions.handle, "127.0.0.1", 0, ssl_context=context)
    try:
        for client, answer in ((None, ""), (strangers.issue("stranger"), ""), (other, "AR"), (hospital, "AA")):
            assert await answered_over_tls(listener.port, adt("A01"), authority, client) == answer
    finally:
        await listener.stop(grace_seconds=5)
    assert await ward.stays() == [("declared", "declare", 1)]
