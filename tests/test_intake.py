"""What becomes of acts: refused with every reason, recorded once, proven by a receipt, and never half."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from asm_daemon.crypto import KeyPurpose, Keyring
from asm_daemon.decisions import prepare
from asm_daemon.intake import Intake, Outcome
from asm_daemon.issuing import Issuer
from asm_daemon.model import Facility
from asm_daemon.problems import Refused
from asm_daemon.receipts import verify_receipt
from asm_daemon.store.pool import open_connection
from schemas.act import ActKind
from schemas.codes import NATIONALITIES, FacilityKind
from schemas.synthetic import person
from tests.stack import Clock, FacilityMaker, Pools, command, declaration


async def declare(intake: Intake, facility: Facility, clock: Clock, index: int = 1, **changes: Any) -> Outcome:
    [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(index, **changes), clock)])
    return outcome


async def act(
    intake: Intake, facility: Facility, clock: Clock, kind: ActKind, fields: dict[str, Any], **members: Any
) -> Outcome:
    [outcome] = await intake.submit([command(facility, kind, fields, clock, **members)])
    return outcome


def code_of(outcome: Outcome) -> str:
    assert outcome.refusal is not None, outcome.outcome
    return outcome.refusal.code


async def count(pools: Pools, table: str) -> int:
    connection = await pools.database.connect()
    found: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return found


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_every_violation_is_named_at_once_and_nothing_is_stored(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    bad = declaration(1, reason=99, room=None, surprise=1)
    bad["guest"] |= {"full_name": "   ", "document": {"type": 1, "number": "00009000001"}}
    outcome = await act(intake, facility, clock, ActKind.DECLARE, bad)
    assert code_of(outcome) == "declaration_invalid"
    found = {(item.pointer, item.code) for item in outcome.refusal.violations}  # type: ignore[union-attr]
    assert found == {
        ("/guest/full_name", "blank_name"),
        ("/guest/document/number", "wrong_document_number"),
        ("/reason", "unknown_code"),
        ("/room", "required"),
        ("/surprise", "unknown_field"),
    }
    assert await count(pools, "stays") == 0
    assert await count(pools, "audit_pending") == 1  # the facility's own entry


async def test_a_departure_before_the_arrival_is_refused(intake: Intake, facility: Facility, clock: Clock) -> None:
    before = (clock() - timedelta(days=1)).isoformat()
    outcome = await declare(intake, facility, clock, planned_departure_at=before)
    assert [item.code for item in outcome.refusal.violations] == ["departure_before_arrival"]  # type: ignore[union-attr]


async def test_the_same_ref_with_other_content_is_refused_with_the_receipt_that_exists(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    first = await declare(intake, facility, clock, source_ref="A-1")
    outcome = await declare(intake, facility, clock, source_ref="A-1", room="204")
    assert code_of(outcome) == "content_differs"
    assert outcome.refusal.receipt == first.receipt  # type: ignore[union-attr]


async def test_a_guest_who_is_in_house_under_another_ref_is_already_staying(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    first = await declare(intake, facility, clock, source_ref="A-1")
    again = await declare(intake, facility, clock, source_ref="A-2")
    assert code_of(again) == "already_staying"
    assert again.refusal.stay_id == str(first.stay.id)  # type: ignore[union-attr]
    assert again.refusal.receipt == first.receipt  # type: ignore[union-attr]


async def test_a_guest_of_another_facility_is_nobodys_business(
    intake: Intake, make_facility: FacilityMaker, clock: Clock
) -> None:
    here, there = await make_facility("HY-KS-0001"), await make_facility("HY-KS-0002")
    await declare(intake, here, clock, source_ref="A-1")
    assert (await declare(intake, there, clock, source_ref="A-1")).outcome == "accepted"


async def test_an_override_with_a_reason_declares_a_guest_twice(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await declare(intake, facility, clock, source_ref="A-1")
    second = await declare(
        intake,
        facility,
        clock,
        source_ref="A-2",
        override={"code": "already_staying", "reason": "Thuê hai phòng cho hai kỳ công tác"},
    )
    assert second.outcome == "accepted"


async def test_two_declarations_of_one_guest_in_one_batch_are_one_stay(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    rows = [
        command(facility, ActKind.DECLARE, declaration(1, source_ref=ref), clock, row=row)
        for row, ref in enumerate(["A-1", "A-1", "A-2"], 1)
    ]
    outcomes = await intake.submit(rows)
    assert [outcome.outcome for outcome in outcomes] == ["accepted", "duplicate", "refused"]
    assert code_of(outcomes[2]) == "already_staying"
    assert await count(pools, "stays") == 1


async def test_a_transition_of_an_unknown_stay_is_not_found(intake: Intake, facility: Facility, clock: Clock) -> None:
    outcome = await act(intake, facility, clock, ActKind.CANCEL, {"reason": "duplicate"}, source_ref="nobody")
    assert code_of(outcome) == "not_found"


async def test_a_stay_of_another_facility_is_not_found(
    intake: Intake, make_facility: FacilityMaker, clock: Clock
) -> None:
    here, there = await make_facility("HY-KS-0001"), await make_facility("HY-KS-0002")
    first = await declare(intake, here, clock)
    outcome = await act(intake, there, clock, ActKind.CANCEL, {"reason": "duplicate"}, stay_id=first.stay.id)  # type: ignore[union-attr]
    assert code_of(outcome) == "not_found"


async def test_a_correction_that_replaces_the_person_is_refused_even_in_two_steps(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    first = await declare(intake, facility, clock)
    other = person(2)
    stay_id = first.stay.id  # type: ignore[union-attr]
    everything = {
        "full_name": other.full_name,
        "birth_date": other.birth_date,
        "document": {"number": other.document_number},
    }
    at_once = await act(intake, facility, clock, ActKind.CORRECT, {"guest": everything}, stay_id=stay_id)
    assert code_of(at_once) == "another_person"
    document = {"document": everything.pop("document")}
    step = await act(intake, facility, clock, ActKind.CORRECT, {"guest": document}, stay_id=stay_id)
    assert step.outcome == "accepted"
    rest = await act(intake, facility, clock, ActKind.CORRECT, {"guest": everything}, stay_id=stay_id)
    assert code_of(rest) == "another_person"


async def test_a_stay_that_is_moved_into_another_one_of_the_same_guest_is_refused(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    def between(first_day: int, last_day: int) -> dict[str, Any]:
        days = {"arrived_at": first_day, "planned_departure_at": last_day}
        return {name: (clock() - timedelta(days=day)).isoformat() for name, day in days.items()}

    await declare(intake, facility, clock, source_ref="A", **between(9, 7))
    later = await declare(intake, facility, clock, source_ref="B", **between(5, 3))
    stay_id = later.stay.id  # type: ignore[union-attr]
    earlier = {"arrived_at": between(8, 3)["arrived_at"]}
    assert code_of(await act(intake, facility, clock, ActKind.CORRECT, earlier, stay_id=stay_id)) == "already_staying"
    longer = {"planned_departure_at": between(9, 4)["planned_departure_at"]}
    extended = await act(intake, facility, clock, ActKind.EXTEND, longer, source_ref="A")
    assert code_of(extended) == "already_staying"
    assert (await act(intake, facility, clock, ActKind.CORRECT, {"room": "9"}, stay_id=stay_id)).outcome == "accepted"


async def test_stays_that_were_meant_to_stand_side_by_side_can_be_corrected(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await declare(intake, facility, clock, source_ref="A")
    override = {"code": "already_staying", "reason": "Thuê thêm một phòng"}
    await declare(intake, facility, clock, source_ref="B", override=override)
    until = {"planned_departure_at": (clock() + timedelta(days=5)).isoformat()}
    for ref in ("A", "B"):
        done = await act(intake, facility, clock, ActKind.EXTEND, until, source_ref=ref)
        assert done.outcome == "accepted", code_of(done)


async def test_a_row_that_names_another_facility_is_not_filed_here(
    intake: Intake, make_facility: FacilityMaker, clock: Clock
) -> None:
    here, there = await make_facility("HY-KS-0001"), await make_facility("HY-KS-0002")
    elsewhere, at_home = declaration(1, facility=there.code), declaration(1, facility=here.code)
    assert code_of(await act(intake, here, clock, ActKind.DECLARE, elsewhere)) == "facility_not_granted"
    assert (await act(intake, here, clock, ActKind.DECLARE, at_home)).outcome == "accepted"


async def test_what_was_declared_under_an_older_code_table_is_refused_by_name_and_ends_nothing(
    intake: Intake, facility: Facility, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await declare(intake, facility, clock)
    without = {code: row for code, row in NATIONALITIES.items() if code != person(1).nationality}
    monkeypatch.setattr("schemas.stay.NATIONALITIES", without)
    moved = await act(intake, facility, clock, ActKind.CORRECT, {"room": "301"}, stay_id=first.stay.id)  # type: ignore[union-attr]
    assert [item.pointer for item in moved.refusal.violations] == ["/guest/nationality"]  # type: ignore[union-attr]
    departure = {"departed_at": clock().isoformat()}
    left = await act(intake, facility, clock, ActKind.CHECK_OUT, departure, stay_id=first.stay.id)  # type: ignore[union-attr]
    assert left.outcome == "accepted"


async def test_an_act_never_shows_a_person_in_its_repr(facility: Facility, clock: Clock, keyring: Keyring) -> None:
    fields = declaration(1, source_ref="000190000001")
    sent = command(facility, ActKind.DECLARE, fields, clock, idempotency_key="000190000001")
    for shown in (repr(sent), repr(prepare(keyring, sent))):
        assert fields["guest"]["full_name"] not in shown
        assert fields["guest"]["document"]["number"] not in shown
        assert "000190000001" not in shown


async def test_a_correction_neither_erases_nor_creates_lateness_and_the_receipt_says_so(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    late = await declare(intake, facility, clock, 1, arrived_at=(clock() - timedelta(days=3)).isoformat())
    on_time = await declare(intake, facility, clock, 2)
    for first, arrived_at in ((late, clock() - timedelta(minutes=5)), (on_time, clock() - timedelta(days=4))):
        patch = {"arrived_at": arrived_at.isoformat()}
        second = await act(intake, facility, clock, ActKind.CORRECT, patch, stay_id=first.stay.id)  # type: ignore[union-attr]
        assert second.stay is not None
        assert second.stay.arrived_at == arrived_at
        assert second.stay.late_minutes == first.stay.late_minutes  # type: ignore[union-attr]
        assert "đã được đính chính" in second.receipt["statement"]["vi"]  # type: ignore[index]


async def test_a_departure_before_an_arrival_that_is_refused_itself_is_told_at_once(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    far = {"arrived_at": (clock() + timedelta(days=5)).isoformat(), "planned_departure_at": clock().isoformat()}
    outcome = await act(intake, facility, clock, ActKind.DECLARE, declaration(1, **far))
    found = [item.code for item in outcome.refusal.violations]  # type: ignore[union-attr]
    assert found == ["arrival_too_far_ahead", "departure_before_arrival"]


async def test_a_correction_of_an_old_version_is_refused(intake: Intake, facility: Facility, clock: Clock) -> None:
    first = await declare(intake, facility, clock)
    stay_id = first.stay.id  # type: ignore[union-attr]
    await act(intake, facility, clock, ActKind.CORRECT, {"room": "301"}, stay_id=stay_id, expected_version=1)
    late = await act(intake, facility, clock, ActKind.CORRECT, {"room": "302"}, stay_id=stay_id, expected_version=1)
    assert code_of(late) == "version_conflict"


async def test_a_cancelled_stay_keeps_its_ref_and_says_so(intake: Intake, facility: Facility, clock: Clock) -> None:
    first = await declare(intake, facility, clock, source_ref="A-1")
    gone = await act(
        intake,
        facility,
        clock,
        ActKind.CANCEL,
        {"reason": "guest_did_not_stay"},
        stay_id=first.stay.id,  # type: ignore[union-attr]
    )
    assert gone.outcome == "accepted"
    assert code_of(await declare(intake, facility, clock, source_ref="A-1")) == "stay_cancelled"
    assert (await declare(intake, facility, clock, source_ref="A-2")).outcome == "accepted"


async def test_a_departure_in_the_future_is_refused(intake: Intake, facility: Facility, clock: Clock) -> None:
    first = await declare(intake, facility, clock)
    later = (clock() + timedelta(hours=1)).isoformat()
    outcome = await act(intake, facility, clock, ActKind.CHECK_OUT, {"departed_at": later}, stay_id=first.stay.id)  # type: ignore[union-attr]
    assert [item.code for item in outcome.refusal.violations] == ["departure_in_future"]  # type: ignore[union-attr]


async def test_a_full_queue_is_answered_as_overloaded(intake: Intake, facility: Facility, clock: Clock) -> None:
    intake._queue_rows = 1
    rows = [command(facility, ActKind.DECLARE, declaration(index), clock) for index in range(1, 4)]
    results = await asyncio.gather(*(intake.submit([row]) for row in rows), return_exceptions=True)
    codes = [result.code for result in results if isinstance(result, Refused)]
    assert codes == ["overloaded", "overloaded"]


async def test_a_missing_month_is_unavailable_and_nothing_is_stored(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    clock.instant += timedelta(days=100)
    with pytest.raises(Refused) as refused:
        await declare(intake, facility, clock, planned_departure_at=(clock() + timedelta(days=1)).isoformat())
    assert refused.value.code == "unavailable"
    assert await count(pools, "stays") == 0


async def test_a_record_that_was_tampered_with_refuses_its_own_act_only(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    first = await declare(intake, facility, clock, 1)
    superuser = await pools.database.connect()
    await superuser.execute("UPDATE stays SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)")
    outcomes = await intake.submit(
        [
            command(facility, ActKind.CANCEL, {"reason": "other"}, clock, stay_id=first.stay.id),  # type: ignore[union-attr]
            command(facility, ActKind.DECLARE, declaration(2), clock),
        ]
    )
    assert code_of(outcomes[0]) == "record_unreadable"
    assert outcomes[1].outcome == "accepted"


async def test_a_row_that_the_database_refuses_does_not_take_the_others_with_it(
    intake: Intake, make_facility: FacilityMaker, clock: Clock, pools: Pools
) -> None:
    good, bad = await make_facility("HY-KS-0001"), await make_facility("HY-KS-0002")
    superuser = await pools.database.connect()
    await superuser.execute(f"ALTER TABLE stays ADD CHECK (facility_id <> {bad.id}) NOT VALID")
    rows = [command(bad if index == 3 else good, ActKind.DECLARE, declaration(index), clock) for index in range(6)]
    outcomes = await intake.submit(rows)
    assert [outcome.outcome for outcome in outcomes].count("accepted") == 5
    assert code_of(outcomes[3]) == "unavailable"
    assert await count(pools, "stays") == 5


async def test_a_lost_database_is_unavailable_and_intake_recovers(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    superuser = await pools.database.connect()
    await superuser.execute(
        """
        CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
            $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
        CREATE TRIGGER die AFTER INSERT ON source_refs EXECUTE FUNCTION die()
        """
    )
    with pytest.raises(Refused) as refused:
        await declare(intake, facility, clock)
    assert refused.value.code == "unavailable"
    await superuser.execute("DROP TRIGGER die ON source_refs")
    assert (await declare(intake, facility, clock)).outcome == "accepted"


async def test_a_commit_that_the_database_refuses_is_unavailable_and_intake_goes_on(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    superuser = await pools.database.connect()
    await superuser.execute(
        """
        CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$;
        CREATE CONSTRAINT TRIGGER disk_full AFTER INSERT ON source_refs DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION disk_full()
        """
    )
    with pytest.raises(Refused) as refused:
        await declare(intake, facility, clock)
    assert refused.value.code == "unavailable"
    await superuser.execute("DROP TRIGGER disk_full ON source_refs")
    assert (await declare(intake, facility, clock)).outcome == "accepted"


async def test_acts_of_which_one_may_have_been_recorded_are_not_answered_as_if_none_was(
    facility: Facility, pools: Pools, keyring: Keyring, issuer: Issuer, clock: Clock
) -> None:
    """They commit one after the other: the first is lost before its commit, the second within it."""
    superuser = await pools.database.connect()
    await superuser.execute(
        """
        CREATE SEQUENCE attempts;
        CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
            $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
        CREATE FUNCTION die_once() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
            $$ BEGIN IF nextval('attempts') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER die_once AFTER INSERT ON source_refs EXECUTE FUNCTION die_once();
        CREATE CONSTRAINT TRIGGER die AFTER INSERT ON source_refs DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION die()
        """
    )
    one_by_one = Intake(
        await pools.get("asm_intake"),
        lambda: open_connection(pools.database.url, "asm_intake"),
        keyring,
        issuer,
        now=clock,
        ring=lambda: None,
        flush_rows=1,
        queue_rows=10,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one_by_one.run())
        with pytest.raises(Refused) as refused:
            await one_by_one.submit([command(facility, ActKind.DECLARE, declaration(index), clock) for index in (1, 2)])
        await one_by_one.close()
    assert refused.value.code == "outcome_unknown"


async def test_a_connection_that_is_lost_while_nobody_waits_costs_nobody_an_answer(
    facility: Facility, pools: Pools, keyring: Keyring, issuer: Issuer, clock: Clock
) -> None:
    opened: list[asyncpg.Connection] = []

    async def connect() -> asyncpg.Connection:
        opened.append(await open_connection(pools.database.url, "asm_intake"))
        return opened[-1]

    pool = await pools.get("asm_intake")
    intake = Intake(pool, connect, keyring, issuer, now=clock, ring=lambda: None, flush_rows=10, queue_rows=10)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(intake.run())
        await declare(intake, facility, clock, 1)
        lost = asyncio.Event()
        opened[0].add_termination_listener(lambda _: lost.set())
        superuser = await pools.database.connect()
        await superuser.execute("SELECT pg_terminate_backend($1)", opened[0].get_server_pid())
        await lost.wait()
        assert (await declare(intake, facility, clock, 2)).outcome == "accepted"
        await intake.close()


async def test_a_server_with_no_connection_left_is_asked_again(
    facility: Facility, pools: Pools, keyring: Keyring, issuer: Issuer, clock: Clock
) -> None:
    full = [asyncpg.TooManyConnectionsError()]

    async def connect() -> asyncpg.Connection:
        if full:
            raise full.pop()
        return await open_connection(pools.database.url, "asm_intake")

    pool = await pools.get("asm_intake")
    intake = Intake(pool, connect, keyring, issuer, now=clock, ring=lambda: None, flush_rows=10, queue_rows=10)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(intake.run())
        while full:
            await asyncio.sleep(0)
        assert (await declare(intake, facility, clock)).outcome == "accepted"
        await intake.close()


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_an_instant_beyond_the_calendar_is_a_wrong_date_and_intake_goes_on(
    intake: Intake, facility: Facility, clock: Clock, instant: str
) -> None:
    wrong = await declare(intake, facility, clock, arrived_at=instant, planned_departure_at=instant)
    assert wrong.refusal is not None
    assert {found.code for found in wrong.refusal.violations} == {"wrong_date"}
    await declare(intake, facility, clock, source_ref="A")
    for kind, member in ((ActKind.EXTEND, "planned_departure_at"), (ActKind.CHECK_OUT, "departed_at")):
        refused = await act(intake, facility, clock, kind, {member: instant}, source_ref="A")
        assert code_of(refused) == "declaration_invalid"


# -- what is recorded --------------------------------------------------------------------------------------------------


async def test_a_declaration_leaves_stay_work_presence_and_audit_together(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, rings: list[None]
) -> None:
    outcome = await declare(intake, facility, clock)
    assert outcome.outcome == "accepted"
    assert outcome.stay is not None
    assert outcome.stay.late_minutes == 0
    tables = ("stays", "sync_queue", "in_house", "source_refs", "receipt_batches")
    assert [await count(pools, table) for table in tables] == [1] * len(tables)
    assert await count(pools, "audit_pending") == 2
    assert rings


async def test_the_receipt_verifies_with_the_trial_key_only(
    intake: Intake, facility: Facility, clock: Clock, keyring: Keyring
) -> None:
    outcome = await declare(intake, facility, clock)
    assert outcome.receipt is not None
    trial = keyring.signing_key(KeyPurpose.RECEIPT_TRIAL).public_key_bytes
    verified = verify_receipt(outcome.receipt["signed"], trial)
    assert verified.trial
    assert verified.leaf.stay_id == outcome.stay.id  # type: ignore[union-attr]
    assert "THỬ NGHIỆM" in outcome.receipt["statement"]["vi"]
    with pytest.raises(Exception, match="checkpoint"):
        verify_receipt(outcome.receipt["signed"], keyring.signing_key(KeyPurpose.RECEIPT).public_key_bytes)


async def test_sending_it_again_is_a_duplicate_with_the_same_receipt(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    fields = declaration(1, source_ref="A-1")
    [first] = await intake.submit([command(facility, ActKind.DECLARE, fields, clock)])
    clock.instant += timedelta(hours=5)
    [again] = await intake.submit([command(facility, ActKind.DECLARE, fields, clock)])
    assert again.outcome == "duplicate"
    assert again.receipt == first.receipt
    assert await count(pools, "stays") == 1


async def test_without_a_ref_the_stay_is_named_by_facility_document_and_arrival(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    fields = declaration(1)
    [first] = await intake.submit([command(facility, ActKind.DECLARE, fields, clock)])
    [again] = await intake.submit([command(facility, ActKind.DECLARE, fields, clock)])
    [moved] = await intake.submit([command(facility, ActKind.DECLARE, {**fields, "room": "301"}, clock)])
    assert [first.outcome, again.outcome, moved.outcome] == ["accepted", "duplicate", "refused"]
    assert code_of(moved) == "content_differs"


async def test_the_original_is_still_a_duplicate_after_a_correction(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    fields = declaration(1, source_ref="A-1")
    [first] = await intake.submit([command(facility, ActKind.DECLARE, fields, clock)])
    await act(intake, facility, clock, ActKind.CORRECT, {"room": "301"}, stay_id=first.stay.id)  # type: ignore[union-attr]
    [again] = await intake.submit([command(facility, ActKind.DECLARE, fields, clock)])
    assert again.outcome == "duplicate"
    assert again.stay.version == 1  # type: ignore[union-attr]
    assert again.receipt == first.receipt


async def test_a_correction_keeps_the_first_on_time_stamp(intake: Intake, facility: Facility, clock: Clock) -> None:
    first = await declare(intake, facility, clock)
    clock.instant += timedelta(days=3)
    second = await act(intake, facility, clock, ActKind.CORRECT, {"room": "301"}, stay_id=first.stay.id)  # type: ignore[union-attr]
    assert second.stay is not None
    assert (second.stay.version, second.stay.late_minutes) == (2, 0)
    assert second.stay.declared_at == first.stay.declared_at  # type: ignore[union-attr]
    assert second.stay.received_at == clock()


async def test_a_late_declaration_is_accepted_and_marked_late(intake: Intake, facility: Facility, clock: Clock) -> None:
    arrived_at = clock() - timedelta(days=2)
    outcome = await declare(intake, facility, clock, arrived_at=arrived_at.isoformat())
    assert outcome.outcome == "accepted"
    assert outcome.stay is not None
    expected = (clock() - outcome.stay.deadline_at).total_seconds() // 60 + 1
    assert outcome.stay.late_minutes == expected > 0


async def test_check_out_undo_extend_and_cancel_are_idempotent_by_state(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    first = await declare(intake, facility, clock)
    stay_id = first.stay.id  # type: ignore[union-attr]
    until = (clock() + timedelta(days=4)).isoformat()
    steps: list[tuple[ActKind, dict[str, Any]]] = [
        (ActKind.EXTEND, {"planned_departure_at": until}),
        (ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}),
        (ActKind.UNDO_CHECK_OUT, {}),
        (ActKind.CANCEL, {"reason": "entered_by_mistake"}),
    ]
    for version, (kind, fields) in enumerate(steps, 2):
        done = await act(intake, facility, clock, kind, fields, stay_id=stay_id)
        again = await act(intake, facility, clock, kind, fields, stay_id=stay_id)
        assert (done.outcome, again.outcome) == ("accepted", "duplicate"), kind
        assert done.stay.version == again.stay.version == version  # type: ignore[union-attr]
        assert again.receipt == done.receipt
    assert await count(pools, "in_house") == 0
    assert await count(pools, "stay_versions") == 4
    assert await count(pools, "sync_queue") == 5


async def test_a_declaration_and_its_check_out_may_come_in_one_batch(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    outcomes = await intake.submit(
        [
            command(facility, ActKind.DECLARE, declaration(1, source_ref="V-1"), clock),
            command(facility, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, clock, source_ref="V-1"),
        ]
    )
    assert [outcome.outcome for outcome in outcomes] == ["accepted", "accepted"]
    connection = await pools.database.connect()
    rows = await connection.fetch("SELECT version, status FROM stays UNION SELECT version, status FROM stay_versions")
    assert {tuple(row) for row in rows} == {(1, "declared"), (2, "departed")}


async def test_a_guest_who_left_may_come_again_and_then_the_check_out_cannot_be_undone(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    first = await declare(intake, facility, clock, source_ref="A-1")
    stay_id = first.stay.id  # type: ignore[union-attr]
    await act(intake, facility, clock, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, stay_id=stay_id)
    assert (await declare(intake, facility, clock, source_ref="A-2")).outcome == "accepted"
    undone = await act(intake, facility, clock, ActKind.UNDO_CHECK_OUT, {}, stay_id=stay_id)
    assert code_of(undone) == "already_staying"


async def test_a_cancelled_stay_without_a_ref_of_its_own_may_be_declared_again(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    fields = declaration(1)
    [first] = await intake.submit([command(facility, ActKind.DECLARE, fields, clock)])
    await act(intake, facility, clock, ActKind.CANCEL, {"reason": "other"}, stay_id=first.stay.id)  # type: ignore[union-attr]
    [again] = await intake.submit([command(facility, ActKind.DECLARE, fields, clock)])
    assert again.outcome == "accepted"
    assert again.stay.id != first.stay.id  # type: ignore[union-attr]


async def test_a_guest_who_comes_back_on_the_same_day_is_another_stay_even_without_a_ref(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    first = await declare(intake, facility, clock)
    left = {"departed_at": (clock() - timedelta(minutes=20)).isoformat()}
    await act(intake, facility, clock, ActKind.CHECK_OUT, left, stay_id=first.stay.id)  # type: ignore[union-attr]
    back = await declare(intake, facility, clock, arrived_at=(clock() - timedelta(minutes=10)).isoformat())
    assert back.outcome == "accepted"
    assert await count(pools, "stays") == 2


async def test_many_requests_at_once_commit_in_few_batches(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    rows = [command(facility, ActKind.DECLARE, declaration(index), clock) for index in range(200)]
    results = await asyncio.gather(*(intake.submit([row]) for row in rows))
    assert {outcome.outcome for [outcome] in results} == {"accepted"}
    assert await count(pools, "stays") == 200
    assert await count(pools, "receipt_batches") < 20


async def test_two_processes_never_take_one_guest_twice(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring, issuer: Any
) -> None:
    other = Intake(
        await pools.get("asm_intake"),
        lambda: open_connection(pools.database.url, "asm_intake"),
        keyring,
        issuer,
        now=clock,
        ring=lambda: None,
        flush_rows=500,
        queue_rows=5000,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(other.run())
        for index in range(1, 21):
            results = await asyncio.gather(
                declare(intake, facility, clock, index, source_ref=f"A-{index}"),
                declare(other, facility, clock, index, source_ref=f"B-{index}"),
            )
            assert sorted(result.outcome for result in results) == ["accepted", "refused"]
        await other.close()
    assert await count(pools, "stays") == 20


async def test_a_rehearsal_decides_the_same_and_stores_nothing(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock, 1, source_ref="A-1")
    rows = [
        command(facility, ActKind.DECLARE, declaration(1, source_ref="A-2"), clock),
        command(facility, ActKind.DECLARE, declaration(2), clock),
        command(facility, ActKind.DECLARE, declaration(3, reason=0), clock),
    ]
    outcomes = await intake.rehearse(rows)
    assert [outcome.outcome for outcome in outcomes] == ["refused", "accepted", "refused"]
    assert outcomes[1].stay is None
    assert await count(pools, "stays") == 1


# -- the sandbox -------------------------------------------------------------------------------------------------------


async def test_the_sandbox_provokes_errors_on_demand_and_reaches_nobody(
    intake: Intake, make_facility: FacilityMaker, clock: Clock, pools: Pools
) -> None:
    sandbox = await make_facility("SANDBOX-1", sandbox=True)
    asked = await declare(intake, sandbox, clock, source_ref="sandbox:already_staying")
    assert code_of(asked) == "already_staying"
    asked = await declare(intake, sandbox, clock, source_ref="sandbox:declaration_invalid:too_long")
    assert [item.code for item in asked.refusal.violations] == ["too_long"]  # type: ignore[union-attr]
    assert (await declare(intake, sandbox, clock, 900_002)).outcome == "accepted"
    assert await count(pools, "sync_queue") == 0
    connection = await pools.database.connect()
    assert await connection.fetchval("SELECT verification FROM sync_log") == "mismatch"


async def test_errors_on_demand_exist_in_the_sandbox_only(intake: Intake, facility: Facility, clock: Clock) -> None:
    assert (await declare(intake, facility, clock, source_ref="sandbox:already_staying")).outcome == "accepted"


async def test_in_production_a_real_facility_gets_a_real_receipt_and_the_sandbox_does_not(
    intake: Intake, make_facility: FacilityMaker, clock: Clock, keyring: Keyring
) -> None:
    intake._issuer = replace(intake._issuer, production=True)
    real, sandbox = await make_facility("HY-KS-0001"), await make_facility("SANDBOX-1", sandbox=True)
    outcomes = await intake.submit(
        [command(place, ActKind.DECLARE, declaration(1), clock) for place in (real, sandbox)]
    )
    trial = [outcome.receipt["trial"] for outcome in outcomes if outcome.receipt is not None]
    assert trial == [False, True]
    key = keyring.signing_key(KeyPurpose.RECEIPT).public_key_bytes
    assert not verify_receipt(outcomes[0].receipt["signed"], key).trial  # type: ignore[index]


async def test_a_dorm_needs_no_departure_date(intake: Intake, make_facility: FacilityMaker, clock: Clock) -> None:
    dorm = await make_facility("HY-NKCN-0001", FacilityKind.INDUSTRIAL_ZONE_HOUSING, zone="KCN Mẫu")
    assert (await declare(intake, dorm, clock, planned_departure_at=None)).outcome == "accepted"


async def test_an_intake_that_dies_leaves_nobody_without_an_answer(
    facility: Facility, pools: Pools, keyring: Keyring, issuer: Issuer, clock: Clock
) -> None:
    async def connect() -> asyncpg.Connection:
        await asyncio.sleep(0)  # so that the act is waiting by then
        raise asyncpg.InvalidPasswordError

    pool = await pools.get("asm_intake")
    dying = Intake(pool, connect, keyring, issuer, now=clock, ring=lambda: None, flush_rows=1, queue_rows=1)
    running = asyncio.create_task(dying.run())
    for _ in range(2):  # as one that waits, and as one that comes too late
        with pytest.raises(Refused, match="unavailable"):
            await declare(dying, facility, clock)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await running
