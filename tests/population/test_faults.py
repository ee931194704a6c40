"""The failures on demand: armed as asked, struck as often as asked, and the same again for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from connectors.population.simulator_faults import Fault, FaultPlan, Operation
from tests.population.conftest import Simulator


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
