"""The carrying of stays, as an operator sees and moves it, and operators' alerts; the same as `/v1/admin/…`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar
from uuid import UUID

import asyncpg
import orjson
import typer
from pydantic import BaseModel, ValidationError

from asm_daemon import operating
from asm_daemon.commands.console import (
    NO,
    group,
    note,
    operator,
    option_name,
    pool,
    print_json,
    print_table,
    require_database,
    settings,
)
from asm_daemon.daemon import ROLES, open_daemon, utc_now
from asm_daemon.problems import Refused, from_validation
from schemas.limits import LIST_ROWS
from schemas.operating import (
    Acted,
    AlertClosing,
    Move,
    OperatorAlertsQuery,
    RefusedQuery,
    Settlement,
    StayInspection,
    WaitingQuery,
)

sync_commands = group("Stays on their way to the population database (đồng bộ với CSDL dân cư).")
alert_commands = group("What an operator has to look at (cảnh báo vận hành).")
_LOGIN = "asm_sync"
_REFUSED_COLUMNS = ("stay_id", "facility", "version", "code", "refused_at", "settled_reason", "settled_by")
_WAITING_COLUMNS = ("stay_id", "facility", "version", "reason", "code", "attempts", "waiting_since", "due_at")
_Model = TypeVar("_Model", bound=BaseModel)
_Result = TypeVar("_Result")

_Stays = Annotated[list[UUID] | None, typer.Argument(metavar="STAY", help="ids of stays (mã lượt); none: by options")]
_Code = Annotated[str | None, typer.Option(help="only those of this code (mã lỗi)")]
_FacilityCode = Annotated[str | None, typer.Option("--facility", help="only those of this facility (mã cơ sở)")]
_OlderThan = Annotated[int | None, typer.Option("--older-than", min=0, help="only those of more than so many hours")]
_Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="why (lý do); it goes into the audit")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="only count (chỉ đếm)")]
_AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
_After = Annotated[UUID | None, typer.Option(help="the last stay of the page before")]
_Limit = Annotated[int, typer.Option(min=1, max=LIST_ROWS, help="rows of a page")]


def _run(use: Callable[[asyncpg.Pool], Awaitable[_Result]]) -> _Result:
    async def run() -> _Result:
        async with pool(settings().database_url, _LOGIN) as opened:
            return await use(opened)

    return asyncio.run(run())


def _asked(model: type[_Model], **given: Any) -> _Model:
    """A question or an action as the API takes it; None is absent. Raises Refused that names each option."""
    try:
        return model.model_validate_json(orjson.dumps({name: each for name, each in given.items() if each is not None}))
    except ValidationError as error:
        places = {f"/{name}": option_name(name) for name in given}
        raise Refused("request_invalid", violations=from_validation(error, places)) from None


def _before(older_than_hours: int | None) -> datetime | None:
    return None if older_than_hours is None else utc_now() - timedelta(hours=older_than_hours)


# -- looking -----------------------------------------------------------------------------------------------------------


@sync_commands.command("status")
def show_status(as_json: _AsJson = False) -> None:
    """Show the backlog by place, reason and code, who holds the lanes, and open alerts (tình trạng)."""
    state, now = _run(operating.overview), utc_now()
    if as_json:
        print_json(state.model_dump(mode="json"))
        return
    print_table(
        ("place", "reason", "code", "stays", "oldest", "age"),
        [
            (each.place, each.reason, each.code, each.stays, each.oldest_at, _age(each.oldest_at, now))
            for each in state.backlog
        ],
    )
    print_table(
        ("worker", "alive until", "lanes"), [(each.worker, each.seen_until, len(each.lanes)) for each in state.workers]
    )
    note(f"làn chưa ai giữ · free lanes: {state.free_lanes}")
    for kind, count in state.open_alerts.items():
        note(f"cảnh báo đang mở · open alerts {kind}: {count}")


def _age(since: datetime | None, now: datetime) -> str | None:
    """For how long, as people read it: `3 d 04:05:06`."""
    if since is None:
        return None
    days, seconds = divmod(max(0, int((now - since).total_seconds())), 86_400)
    return (f"{days} d " if days else "") + f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


@sync_commands.command("refused")
def list_refused(
    code: _Code = None,
    facility_code: _FacilityCode = None,
    older_than: _OlderThan = None,
    settled: Annotated[bool, typer.Option("--settled", help="those that were settled instead")] = False,
    after: _After = None,
    limit: _Limit = 100,
    as_json: _AsJson = False,
) -> None:
    """List what was refused and waits for a human, by stay id (bị từ chối)."""
    before = _before(older_than)
    query = _asked(
        RefusedQuery, code=code, facility=facility_code, before=before, settled=settled, after=after, limit=limit
    )
    page = _run(lambda opened: operating.list_refused(opened, query, utc_now()))
    _show([each.model_dump(mode="json") for each in page.refused], _REFUSED_COLUMNS, page.next, as_json=as_json)


@sync_commands.command("waiting")
def list_waiting(
    reason: Annotated[str | None, typer.Option(help="unreachable, ambiguous or no_key")] = None,
    code: _Code = None,
    facility_code: _FacilityCode = None,
    older_than: _OlderThan = None,
    after: _After = None,
    limit: _Limit = 100,
    as_json: _AsJson = False,
) -> None:
    """List what waits to be tried again, by stay id (đang chờ)."""
    before = _before(older_than)
    query = _asked(
        WaitingQuery, reason=reason, code=code, facility=facility_code, before=before, after=after, limit=limit
    )
    page = _run(lambda opened: operating.list_waiting(opened, query, utc_now()))
    _show([each.model_dump(mode="json") for each in page.waiting], _WAITING_COLUMNS, page.next, as_json=as_json)


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...], following: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_table(columns, [[row[name] for name in columns] for row in rows])
    if following is not None:
        note(f"còn nữa · more: --after {following}")


@sync_commands.command("stay")
def inspect_stay(
    stay_id: Annotated[UUID, typer.Argument(metavar="STAY", help="its id (mã lượt)")],
    ask: Annotated[bool, typer.Option("--ask", help="ask the population database too, which version it holds")] = False,
) -> None:
    """Show where one stay stands, without its guest (một lượt đang ở đâu).

    The look is recorded in the audit.
    """
    if ask:
        found = asyncio.run(_inspect_and_ask(stay_id))
    else:
        found = _run(lambda opened: operating.inspect(opened, operator(), stay_id, utc_now(), None))
    print_json(found.model_dump(mode="json"))


async def _inspect_and_ask(stay_id: UUID) -> StayInspection:
    given = settings()
    await require_database(given.database_url, *ROLES)
    async with open_daemon(given) as opened:
        return await operating.inspect(opened.pools[_LOGIN], operator(), stay_id, utc_now(), opened.population.status)


# -- acting ------------------------------------------------------------------------------------------------------------


def _nobody() -> None:
    """The daemons that run look for work by themselves, four times a second."""


@sync_commands.command("replay")
def replay(
    stays: _Stays = None,
    code: _Code = None,
    facility_code: _FacilityCode = None,
    older_than: _OlderThan = None,
    reason: _Reason = None,
    dry_run: _DryRun = False,
) -> None:
    """Send what was refused again (gửi lại), at most 10,000 stays."""
    chosen = _chosen(Move, stays, code, facility_code, older_than, reason, dry_run=dry_run)
    _tell(_run(lambda opened: operating.replay(opened, _nobody, operator(), chosen, utc_now())))


@sync_commands.command("release")
def release(
    stays: _Stays = None,
    code: _Code = None,
    facility_code: _FacilityCode = None,
    older_than: _OlderThan = None,
    reason: _Reason = None,
    dry_run: _DryRun = False,
) -> None:
    """Let what waits be tried at once (thử ngay), at most 10,000 stays."""
    chosen = _chosen(Move, stays, code, facility_code, older_than, reason, dry_run=dry_run)
    _tell(_run(lambda opened: operating.release(opened, _nobody, operator(), chosen, utc_now())))


@sync_commands.command("settle")
def settle(
    reason: Annotated[str, typer.Option(help="corrected_there, owner_informed, not_required or under_investigation")],
    stays: _Stays = None,
    code: _Code = None,
    facility_code: _FacilityCode = None,
    older_than: _OlderThan = None,
    dry_run: _DryRun = False,
) -> None:
    """Mark what was refused as looked at (đã xử lý), at most 10,000 stays: it stays refused, and alarms nobody."""
    chosen = _chosen(Settlement, stays, code, facility_code, older_than, reason, dry_run=dry_run)
    _tell(_run(lambda opened: operating.settle(opened, operator(), chosen, utc_now())))


def _chosen(
    model: type[_Model],
    stays: list[UUID] | None,
    code: str | None,
    facility_code: str | None,
    older_than: int | None,
    reason: str | None,
    *,
    dry_run: bool,
) -> _Model:
    before = _before(older_than)
    return _asked(
        model, stay_ids=stays, code=code, facility=facility_code, before=before, dry_run=dry_run, reason=reason
    )


def _tell(done: Acted) -> None:
    print_json(done.model_dump(mode="json"))
    if done.stays == 0:
        raise typer.Exit(NO)


# -- alerts ------------------------------------------------------------------------------------------------------------


@alert_commands.command("list")
def list_alerts(
    closed: Annotated[bool, typer.Option("--closed", help="closed ones too")] = False, as_json: _AsJson = False
) -> None:
    """List open alerts, the newest occurrence first (cảnh báo)."""
    query = _asked(OperatorAlertsQuery, closed=closed, limit=LIST_ROWS)
    found = _run(lambda opened: operating.list_alerts(opened, query))
    columns = ("kind", "subject", "raised_at", "last_at", "occurrences", "details", "closed_by")
    rows = [each.model_dump(mode="json") for each in found.alerts]
    if not as_json:
        rows = [{**row, "details": " ".join(f"{name}={told}" for name, told in row["details"].items())} for row in rows]
    _show(rows, columns, None, as_json=as_json)


@alert_commands.command("close")
def close_alert(
    kind: Annotated[str, typer.Argument(help="its kind (loại)")],
    subject: Annotated[str, typer.Argument(help="what it is about (đối tượng)")],
) -> None:
    """Note that an alert was dealt with (đóng cảnh báo); if it happens again, it is open again."""
    closing = _asked(AlertClosing, kind=kind, subject=subject)
    _run(lambda opened: operating.close_alert(opened, operator(), closing, utc_now()))
