"""The failures on demand: armed as asked, struck as often as asked, and the same again for the same seed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from connectors.population.client import PopulationClient
from connectors.population.simulator_faults import Fault, FaultKind, FaultPlan, Operation, Schedule, plan
from schemas.population import Ambiguous, Unreachable
from tests.population.conftest import Simulator, speaking_to
from tests.population.items import item, stay_id


def armed(*faults: dict[str, Any]) -> FaultPlan:
    plan = FaultPlan()
    for fault in faults:
        plan.arm(Fault.model_validate(fault))
    return plan


def strikes(plan: FaultPlan, requests: int, operation: Operation = Operation.BATCH) -> list[str | None]:
    drawn = [plan.draw(operation) for _ in range(requests)]
    return [fault.kind.value if fault else None for fault in drawn]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "reset"},
        {"kind": "earthquake", "count": 1},
        {"kind": "reset", "count": 0},
        {"kind": "reset", "probability": 0.0},
        {"kind": "reset", "probability": 1.5},
        {"kind": "reset", "count": 1, "for": "ever"},
        {"kind": "server_error", "count": 1, "status": 404},
        {"kind": "latency", "count": 1, "after_commit": True},
        {"kind": "slow_body", "count": 1, "after_commit": True},
        {"kind": "reset", "count": 1, "on": "token", "after_commit": True},
        {"kind": "partial", "count": 1, "on": "token"},
        {"kind": "zero_rows", "count": 1, "on": "token"},
        {"kind": "token_expired", "count": 1, "on": "token"},
    ],
)
def test_a_fault_that_makes_no_sense_cannot_be_armed(fault: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate(fault)


async def test_the_admin_is_told_of_a_fault_that_makes_no_sense(simulator: Simulator) -> None:
    with pytest.raises(AssertionError, match="invalid_request"):
        await simulator.admin("POST", "faults", {"kind": "reset"})


def test_a_counted_fault_strikes_as_often_as_asked_and_only_where_asked() -> None:
    plan = armed({"kind": "reset", "count": 2})
    assert strikes(plan, 2, Operation.STATUS) == [None, None]
    assert strikes(plan, 4) == ["reset", "reset", None, None]


def test_faults_strike_one_at_a_time_in_the_order_they_were_armed() -> None:
    plan = armed({"kind": "reset", "count": 1}, {"kind": "partial", "count": 1}, {"kind": "reset", "count": 1})
    assert strikes(plan, 4) == ["reset", "partial", "reset", None]


def test_the_same_seed_strikes_the_same_requests() -> None:
    fault = {"kind": "reset", "probability": 0.3, "seed": 7}
    first = strikes(armed(fault), 200)
    assert first == strikes(armed(fault), 200)
    assert first != strikes(armed(fault | {"seed": 8}), 200)
    assert 30 <= first.count("reset") <= 90


def test_a_seed_means_the_same_requests_whatever_else_is_armed() -> None:
    fault = {"kind": "reset", "probability": 0.3, "seed": 7}
    alone = strikes(armed(fault), 100)
    behind = strikes(armed({"kind": "partial", "probability": 0.5, "seed": 1}, fault), 100)
    assert all(with_other in (one, "partial") for one, with_other in zip(alone, behind, strict=True))


def test_probability_and_count_together_end_after_the_count() -> None:
    assert strikes(armed({"kind": "reset", "probability": 0.5, "seed": 1, "count": 3}), 100).count("reset") == 3


async def test_what_is_armed_and_what_struck_can_be_read_and_disarmed(simulator: Simulator) -> None:
    await simulator.arm("reset", count=3)
    report = await simulator.admin("GET", "faults")
    assert [(one["fault"]["kind"], one["remaining"], one["struck"]) for one in report["armed"]] == [("reset", 3, 0)]
    assert await simulator.admin("DELETE", "faults") == {"armed": [], "struck": {}}


# -- the seeded schedule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"seed": 1, "requests": 10},
        {"seed": -1, "requests": 10, "share": 0.5},
        {"seed": 1, "requests": 0, "share": 0.5},
        {"seed": 1, "requests": 10_001, "share": 0.5},
        {"seed": 1, "requests": 10, "share": 0},
        {"seed": 1, "requests": 10, "share": 1.5},
        {"seed": 1, "requests": 10, "share": 0.5, "kinds": []},
        {"seed": 1, "requests": 10, "share": 0.5, "kinds": ["earthquake"]},
        {"seed": 1, "requests": 10, "share": 0.5, "on": ["persons"]},
        {"seed": 1, "requests": 10, "share": 0.5, "on": ["token"], "kinds": ["partial", "zero_rows"]},
        {"seed": 1, "requests": 10, "share": 0.5, "every": "day"},
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(schedule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Schedule.model_validate(schedule)


def following(**settings: Any) -> FaultPlan:
    made = FaultPlan()
    made.follow(Schedule.model_validate({"seed": 7, "requests": 200, "share": 0.3} | settings))
    return made


def test_one_seed_is_one_schedule_for_each_operation_whatever_the_others_do() -> None:
    alone = strikes(following(), 300)
    assert alone == strikes(following(), 300)
    assert alone != strikes(following(seed=8), 300)
    assert alone[200:] == [None] * 100
    assert 30 <= 200 - alone[:200].count(None) <= 90
    mixed = following()
    between = []
    for _ in range(300):
        strikes(mixed, 2, Operation.STATUS)
        between += strikes(mixed, 1)
    assert between == alone
    assert strikes(following(), 300, Operation.DIGESTS) != alone


def test_every_failure_comes_up_on_every_operation_that_can_have_it() -> None:
    everything = plan(Schedule(seed=1, requests=2_000, share=1.0, longest_milliseconds=10))
    for operation, planned in everything.items():
        kinds = {one.fault.kind for one in planned}
        missing = set(FaultKind) - kinds
        expected = {"partial", "zero_rows", "token_expired"} if operation is Operation.TOKEN else set()
        assert {kind.value for kind in missing} == expected
        assert all(one.fault.milliseconds <= 10 and one.fault.on is operation for one in planned)
    assert {one.fault.after_commit for one in everything[Operation.BATCH]} == {True, False}
    assert set(everything) == set(Operation)


def test_a_schedule_is_narrowed_to_kinds_and_operations() -> None:
    narrowed = plan(
        Schedule.model_validate({"seed": 1, "requests": 50, "share": 1.0, "kinds": ["reset"], "on": ["held"]})
    )
    assert {operation.value: {one.fault.kind.value for one in planned} for operation, planned in narrowed.items()} == {
        "held": {"reset"}
    }


def test_what_is_armed_by_hand_comes_before_what_the_schedule_has() -> None:
    made = following(share=1.0, kinds=["reset"])
    made.arm(Fault.model_validate({"kind": "partial", "count": 1}))
    assert strikes(made, 3) == ["partial", "reset", "reset"]


async def test_a_schedule_is_followed_read_back_and_ended(simulator: Simulator, client: PopulationClient) -> None:
    asked = {"seed": 5, "requests": 3, "share": 1.0, "kinds": ["html_page"], "on": ["status"]}
    begun = await simulator.admin("POST", "schedule", asked)
    assert begun["schedule"] == asked | {"longest_milliseconds": 2_000}
    to_come = begun["operations"]["status"]["to_come"]
    assert [one["request"] for one in to_come] == [1, 2, 3]
    for _ in range(2):
        with pytest.raises(Ambiguous, match="html_page"):
            await client.status([stay_id(1)])
    assert (await simulator.admin("GET", "schedule"))["operations"] == {
        "status": {"requests": 2, "struck": 2, "to_come": to_come[2:]}
    }
    assert await simulator.admin("DELETE", "schedule") == {"schedule": None, "operations": {}}
    assert await client.status([stay_id(1)])
    assert (await simulator.admin("GET", "faults"))["struck"] == {"html_page": 2}
    with pytest.raises(AssertionError, match="invalid_request"):
        await simulator.admin("POST", "schedule", {"seed": 5})


async def test_under_a_schedule_of_every_failure_a_patient_sender_converges_and_breaks_nothing(
    simulator: Simulator,
) -> None:
    items = {one.stay_id: one for one in (item(number) for number in range(1, 41))}
    await simulator.admin("POST", "schedule", {"seed": 11, "requests": 60, "share": 0.7, "longest_milliseconds": 20})
    held: set[UUID] = set()
    async with speaking_to(simulator.url, answer_seconds=0.5) as client:
        for _ in range(200):
            left = [one for stay_id, one in items.items() if stay_id not in held][:10]
            if not left:
                break
            with suppress(Ambiguous, Unreachable):
                held |= (await client.send(left)).results.keys()
    assert held == set(items)
    assert len(set(await simulator.effects())) == len(await simulator.effects()) == 40
    assert (await simulator.violations())["sender"] == {}
