"""The commands that rotate, verify and destroy keys. They change their store, so each test has one of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from uuid_utils.compat import uuid7

from asm_daemon import resealing, retention
from asm_daemon.__main__ import app
from asm_daemon.commands.keys import FAULT_TEXTS, _retire
from asm_daemon.crypto import KeyName, Keyring, RecordName, UnknownEpoch, epoch_at, epoch_bounds, next_epoch
from asm_daemon.intake import Intake
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.model import Facility
from asm_daemon.roots import VaultRoot
from asm_daemon.settings import load_settings
from asm_daemon.store import stays as stays_store
from asm_daemon.store.retention import Hold
from schemas.act import ActKind
from tests import vault
from tests.conftest import Database
from tests.house import waits_or_is_done
from tests.stack import Clock, Pools, command, declaration

DONE, NO, WRONG, UNREADY = 0, 1, 2, 3
OLD = 202401
Command = Callable[..., Awaitable[Result]]


@pytest.fixture
def epoch(clock: Clock) -> int:
    return epoch_at(clock())


@pytest.fixture
def store(tmp_path: Path, clock: Clock, epoch: int) -> KeyStore:
    return create_store(tmp_path / "keys", [OLD, epoch, next_epoch(epoch)], clock())


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


@pytest.fixture
def environment(store: KeyStore, tmp_path: Path, database: Database) -> dict[str, str]:
    """The settings of this test's key store and database."""
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    return {
        "ASM_ENVIRONMENT": "trial",
        "ASM_DEPLOYMENT": "asm.test.example",
        "ASM_DATABASE_URL": database.url,
        "ASM_KEY_STORE": str(tmp_path / "keys"),
        "ASM_PUBLIC_URL": "http://127.0.0.1",
        "ASM_POPULATION_URL": "http://127.0.0.1:1",
        "ASM_POPULATION_CLIENT_ID": "asm-test",
        "ASM_POPULATION_CLIENT_SECRET_FILE": str(secret),
    }


@pytest.fixture
def asm(environment: dict[str, str]) -> Command:
    """`await asm("keys", "list")` runs a command on this test's key store and database."""

    async def run(*arguments: str, **changes: str) -> Result:
        settings = {**environment, **changes}
        result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=settings)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


async def actions(pools: Pools) -> list[dict[str, Any]]:
    """What the audit says of keys, oldest first."""
    connection = await pools.database.connect("asm_audit")
    bodies = [
        json.loads(row["body"]) for row in await connection.fetch("SELECT body FROM audit_pending ORDER BY arrival")
    ]
    return [body for body in bodies if body["action"].startswith("keys.")]


# -- another key store ------------------------------------------------------------------------------------------------


async def test_a_key_store_of_another_database_does_nothing_and_makes_nothing_there(
    asm: Command, intake: Intake, facility: Facility, clock: Clock, tmp_path: Path, database: Database
) -> None:
    missing = await asm("once", "verify", ASM_KEY_STORE=str(tmp_path / "gone"))
    assert (missing.exit_code, "restore a backup" in missing.stderr) == (UNREADY, True)
    assert (await asm("keys", "init", ASM_KEY_STORE=str(tmp_path / "new"))).exit_code == DONE
    assert (await asm("once", "prepare-months", ASM_KEY_STORE=str(tmp_path / "new"))).exit_code == DONE  # no receipts
    for index in (1, 2):
        [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(index), clock)])
    assert outcome.stay
    before = (tmp_path / "new" / "keys.json").read_bytes()
    foreign = await asm("once", "prepare-months", ASM_KEY_STORE=str(tmp_path / "new"))
    assert (foreign.exit_code, "key store is not the database's" in foreign.stderr) == (UNREADY, True)
    assert (tmp_path / "new" / "keys.json").read_bytes() == before
    for arguments in (
        ("hold", "restore"), ("hold", "add", "--warrant", "1/2026", "--reason", "x", "--stay", str(outcome.stay.id)),
        ("principal", "add", "--kind", "owner", "--name", "Chủ", "--organisation", "Cơ sở mẫu"),
    ):  # fmt: skip
        refused = await asm(*arguments, ASM_KEY_STORE=str(tmp_path / "new"))
        assert (refused.exit_code, "key store is not the database's" in refused.stderr) == (UNREADY, True), arguments
    # Nor do some rows of somebody who may write to one of the tables keep a daemon from starting.
    assert (await asm("once", "seal-audit")).exit_code == DONE
    await (await database.connect("asm_intake")).execute(
        "INSERT INTO receipt_batches (id, signed_at, leaves, checkpoint)"
        " SELECT ('ffffffff-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, now(), '', 'x'"
        " FROM generate_series(1, 20) AS n"
    )
    assert (await asm("once", "prepare-months")).exit_code == DONE
    # One batch that somebody spoilt keeps no daemon from starting.
    await (await database.connect()).execute(
        "UPDATE receipt_batches SET checkpoint = 'x' WHERE id = (SELECT id FROM receipt_batches ORDER BY id LIMIT 1)"
    )
    assert (await asm("once", "prepare-months")).exit_code == DONE


# -- holds, erasure and backups ----------------------------------------------------------------------------------------


async def test_a_held_stay_is_neither_erased_nor_are_its_keys_destroyed_until_the_hold_is_lifted(
    asm: Command, store: KeyStore, intake: Intake, facility: Facility, clock: Clock, database: Database, epoch: int
) -> None:
    [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(1), clock)])
    assert outcome.stay
    stay = str(outcome.stay.id)
    leaves = {"departed_at": clock().isoformat()}
    await intake.submit([command(facility, ActKind.CHECK_OUT, leaves, clock, stay_id=outcome.stay.id)])
    await (await database.connect()).execute("DELETE FROM sync_queue")
    why = ["--reason", "điều tra"]
    for arguments in (
        ["--warrant", "15/2026/HS-PC02"],
        ["--warrant", "15/2026/HS-PC02", "--facility", facility.code],
        ["--warrant", "15/2026/HS-PC02", "--stay", stay, "--facility", facility.code],
        ["--warrant", "034095001234", "--stay", stay],
    ):
        assert (await asm("hold", "add", *arguments, *why)).exit_code == WRONG, arguments
    unknown = ["--stay", "01890000-0000-7000-8000-000000000000"]
    assert (await asm("hold", "add", "--warrant", "15/2026/HS-PC02", *unknown, *why)).exit_code == UNREADY
    held = await asm("hold", "add", "--warrant", "15/2026/HS-PC02", "--stay", stay, *why)
    hold = json.loads(held.stdout)
    assert hold["stays"] == 1
    [listed] = json.loads((await asm("hold", "list", "--json")).stdout)
    assert (listed["id"], listed["warrant_ref"]) == (hold["hold"], "15/2026/HS-PC02")
    refused = await asm("erase", "stay", stay, *why, "--confirm", stay)
    assert (refused.exit_code, "legal hold" in refused.stderr) == (UNREADY, True)
    assert (await asm("hold", "lift", hold["hold"], *why)).exit_code == DONE
    assert (await asm("hold", "lift", hold["hold"], *why)).exit_code == UNREADY
    assert (await asm("erase", "stay", stay, *why, "--confirm", hold["hold"])).exit_code == UNREADY
    erased = await asm("erase", "stay", stay, *why, "--urgent", "--confirm", stay)
    assert (erased.exit_code, json.loads(erased.stdout)["state"]) == (DONE, "erased")
    assert json.loads(erased.stdout)["no_copy_after"] is not None  # as of a normal one, until the keys are gone
    assert f"data/{epoch}/2" in {str(key.name) for key in store.read()}
    [shown] = json.loads((await asm("retention", "list", "--json")).stdout)
    assert (shown["subject"], shown["state"]) == (f"stay/{stay}", "erased")


async def test_a_backup_of_the_key_store_is_made_where_it_is_wanted_and_old_ones_go(
    asm: Command, store: KeyStore, tmp_path: Path
) -> None:
    assert (await asm("keys", "backup")).exit_code == UNREADY
    for inside in (tmp_path / "keys", tmp_path / "keys" / "backups"):
        refused = await asm("keys", "backup", str(inside))
        assert (refused.exit_code, "outside the key store" in refused.stderr) == (UNREADY, True)
    old = tmp_path / "backups" / "asm-keys-20200101T000000Z"
    old.mkdir(parents=True)
    (tmp_path / "backups").chmod(0o700)
    made = json.loads((await asm("keys", "backup", ASM_KEY_BACKUPS=str(tmp_path / "backups"))).stdout)
    assert (made["expired"], old.exists()) == (1, False)
    assert [path.name for path in Path(made["backup"]).iterdir()] == ["keys.json"]


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_a_month_is_not_destroyed_without_its_name_twice_and_a_reason(asm: Command, store: KeyStore) -> None:
    before = store.read()
    for arguments, code in (
        (["202401", "--reason", "retention", "--confirm", "202402"], UNREADY),
        (["202401", "--reason", "", "--confirm", "202401"], WRONG),
        (["202401", "--confirm", "202401"], WRONG),
        (["202413", "--reason", "retention", "--confirm", "202413"], WRONG),
        (["202312", "--reason", "retention", "--confirm", "202312"], UNREADY),
    ):
        assert (await asm("keys", "destroy", *arguments)).exit_code == code, arguments
    assert store.read() == before


async def test_a_month_that_is_not_over_or_of_which_something_has_to_be_kept_is_not_destroyed(
    asm: Command, store: KeyStore, pools: Pools, epoch: int, intake: Intake, facility: Facility, clock: Clock
) -> None:
    arguments = ["--reason", "retention", "--confirm"]
    result = await asm("keys", "destroy", str(epoch), *arguments, str(epoch))
    assert (result.exit_code, "is not over" in result.stderr) == (UNREADY, True)
    [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(1), clock)])
    assert outcome.stay
    retention = await pools.database.connect("asm_retention")
    await stays_store.create_partitions(retention, OLD, *epoch_bounds(OLD))
    superuser = await pools.database.connect()
    old_id = epoch_bounds(OLD)[0]
    await superuser.execute(  # as it would be, had it been declared then
        """
        INSERT INTO stays SELECT ($1::uuid) AS id, facility_id, version, status, event, received_at, declared_at,
            arrived_at, planned_departure_at, departed_at, deadline_at, late_minutes, document_index, person_index,
            given_name_index, content_tag, receipt_batch_id, receipt_index, sealed FROM stays WHERE id = $2
        """,
        old_id,
        outcome.stay.id,
    )
    for left in ("", "status = 'departed', departed_at = now(), "):  # the law keeps what has ended, too
        await superuser.execute(f"UPDATE stays SET {left} version = version WHERE id = $1", old_id)
        result = await asm("keys", "destroy", str(OLD), *arguments, str(OLD))
        assert (result.exit_code, "1 stays of 202401 have to be kept" in result.stderr) == (UNREADY, True)
    assert OLD in store.keyring().epochs()
    assert await actions(pools) == []


async def test_only_a_superseded_data_key_is_retired_by_hand(
    asm: Command, store: KeyStore, epoch: int, clock: Clock
) -> None:
    store.renew_epoch(epoch, clock())
    before = store.read()
    for name in (f"data/{epoch}/2", f"index/{epoch}/1", "presence/1", "data/202001/1", "nonsense"):
        result = await asm("keys", "retire", name, "--reason", "test", "--confirm", name)
        assert result.exit_code == UNREADY, name
    assert (await asm("keys", "retire", f"data/{epoch}/1", "--reason", "x", "--confirm", "y")).exit_code == UNREADY
    assert store.read() == before


async def test_nothing_is_rotated_that_cannot_be_said_in_the_audit(asm: Command, store: KeyStore, epoch: int) -> None:
    away = {"ASM_DATABASE_URL": "postgresql://{role}@127.0.0.1:1/asm"}
    before, wrapped = store.read(), store.inventory()
    assert (await asm("keys", "rotate", **away)).exit_code == UNREADY
    assert (await asm("keys", "rotate", "--epoch", str(epoch), **away)).exit_code == UNREADY
    assert (await asm("keys", "rotate", "--epoch", "202312")).exit_code == UNREADY
    assert (store.read(), store.inventory()) == (before, wrapped)


async def test_a_store_of_another_provider_is_refused_with_its_setting(
    asm: Command, tmp_path: Path, store: KeyStore
) -> None:
    token = tmp_path / "token"
    token.write_text(vault.TOKEN)
    token.chmod(0o600)
    given = {
        "ASM_KEY_PROVIDER": "vault",
        "ASM_KEY_VAULT_URL": "http://127.0.0.1:1",
        "ASM_KEY_VAULT_TOKEN_FILE": str(token),
    }
    result = await asm("keys", "public", **given)
    assert result.exit_code == UNREADY
    assert "wrapped by a root of file, not of vault (ASM_KEY_PROVIDER)" in result.stderr


# -- what is done ------------------------------------------------------------------------------------------------------


async def test_the_root_is_rotated_beside_a_running_daemon_and_audited(
    asm: Command, store: KeyStore, keyring: Keyring, pools: Pools, epoch: int, tmp_path: Path
) -> None:
    record = RecordName("stay", epoch, 1, epoch_bounds(epoch)[0], 1, 1)
    sealed, root, keys = keyring.seal(record, b"{}"), (tmp_path / "keys" / "root.key").read_bytes(), store.read()
    result = await asm("keys", "rotate")
    assert result.exit_code == DONE
    assert json.loads(result.stdout)["wrapped"] == len(keys)
    assert "make a new one now" in result.stderr
    assert (tmp_path / "keys" / "root.key").read_bytes() != root
    assert KeyStore(tmp_path / "keys").read() == keys
    keyring.reload()
    assert keyring.open(record, sealed) == b"{}"
    [entry] = await actions(pools)
    assert (entry["action"], entry["actor_kind"], entry["details"]) == (
        "keys.rotate_root", "operator", {"provider": "file"}
    )  # fmt: skip


async def test_a_renewed_month_is_listed_verified_and_its_old_key_retired_by_hand(
    asm: Command, keyring: Keyring, pools: Pools, epoch: int, intake: Intake, facility: Facility, clock: Clock
) -> None:
    await intake.submit([command(facility, ActKind.DECLARE, declaration(1), clock)])
    renewed = await asm("keys", "rotate", "--epoch", str(epoch))
    assert (renewed.exit_code, json.loads(renewed.stdout)) == (DONE, {"keys": [f"data/{epoch}/2", f"index/{epoch}/2"]})
    keyring.reload()
    await intake.submit([command(facility, ActKind.DECLARE, declaration(2), clock)])
    listed = {key["name"]: key for key in json.loads((await asm("keys", "list", "--json")).stdout)}
    assert (listed[f"data/{epoch}/1"]["state"], listed[f"data/{epoch}/2"]["state"]) == ("superseded", "active")
    assert (listed[f"index/{epoch}/1"]["state"], listed[f"index/{epoch}/2"]["state"]) == ("superseded", "active")
    verified = await asm("keys", "verify")
    assert (verified.exit_code, json.loads(verified.stdout)) == (
        DONE,
        {"keys": len(listed), "epochs": [epoch], "versions": 2, "reencrypted": 0, "batches": 0, "faults": []},
    )  # fmt: skip
    assert [entry["action"] for entry in await actions(pools)] == ["keys.renew"]


async def test_a_replaced_key_is_retired_by_hand_only_with_what_is_lost_already(
    asm: Command,
    store: KeyStore,
    keyring: Keyring,
    pools: Pools,
    epoch: int,
    intake: Intake,
    facility: Facility,
    clock: Clock,
) -> None:
    async def retire(*more: str) -> Result:
        return await asm("keys", "retire", name, "--reason", "khoá bị lộ", "--confirm", name, *more)

    name, why = f"data/{epoch}/1", ("--reason", "điều tra")
    [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(1), clock)])
    assert outcome.stay
    stay = str(outcome.stay.id)
    store.renew_epoch(epoch, clock())
    at_once = await retire("--lost", "1")
    assert (at_once.exit_code, "less than 10 minutes" in at_once.stderr) == (UNREADY, True)
    renewed_long_ago(store, epoch)
    sound = await retire("--lost", "1")
    assert (sound.exit_code, "1 good records" in sound.stderr) == (UNREADY, True)
    superuser = await pools.database.connect()
    await superuser.execute("UPDATE stays SET sealed = set_byte(sealed, 60, 255 - get_byte(sealed, 60))")
    hold = json.loads((await asm("hold", "add", "--warrant", "15/2026/HS-PC02", "--stay", stay, *why)).stdout)["hold"]
    held = await retire("--lost", "1")
    assert (held.exit_code, "legal hold" in held.stderr) == (UNREADY, True)
    assert (await asm("hold", "lift", hold, *why)).exit_code == DONE
    uncounted = await retire()
    assert (uncounted.exit_code, "say --lost 1" in uncounted.stderr) == (UNREADY, True)
    await superuser.execute("UPDATE legal_holds SET lifted_reason = 'x'")
    changed = await retire("--lost", "1")
    assert (changed.exit_code, "legal holds are not what the audit tells" in changed.stderr) == (UNREADY, True)
    assert (await asm("hold", "restore")).exit_code == DONE
    assert [entry["action"] for entry in await actions(pools)] == []
    done = await retire("--lost", "1")
    assert (done.exit_code, json.loads(done.stdout)) == (DONE, {"destroyed": [name, f"index/{epoch}/1"]})
    [entry] = await actions(pools)
    assert (entry["action"], entry["details"]["keys"]) == ("keys.retire", [name, f"index/{epoch}/1"])
    verified = await asm("keys", "verify")
    faults = json.loads(verified.stdout)["faults"]
    assert (verified.exit_code, [fault["kind"] for fault in faults]) == (NO, ["not_what_was_signed"])


def renewed_long_ago(store: KeyStore, epoch: int) -> None:
    """Renew a month's keys once more, as if eleven minutes ago."""
    store.renew_epoch(epoch, datetime.now(UTC) - timedelta(minutes=11))


async def test_with_a_hold_removed_by_hand_nothing_is_erased_or_destroyed_and_the_verification_names_it(
    asm: Command, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(1), clock)])
    assert outcome.stay
    stay, why = str(outcome.stay.id), ("--reason", "yêu cầu")
    hold = json.loads((await asm("hold", "add", "--warrant", "15/2026/HS-PC02", "--stay", stay, *why)).stdout)["hold"]
    verified = await asm("keys", "verify", "--all")
    assert (verified.exit_code, json.loads(verified.stdout)["told"]) == (DONE, 2)  # the facility and the hold
    await (await pools.database.connect()).execute("DELETE FROM legal_holds")
    for arguments in (("erase", "stay", stay, *why, "--confirm", stay),
                      ("keys", "destroy", str(OLD), *why, "--confirm", str(OLD))):  # fmt: skip
        refused = await asm(*arguments)
        assert (refused.exit_code, "not what the audit tells" in refused.stderr) == (UNREADY, True)
    verified = await asm("keys", "verify", "--all")
    [fault] = json.loads(verified.stdout)["faults"]
    assert (verified.exit_code, fault["kind"], fault["subject"]) == (NO, "told_and_gone", f"hold/{hold}")


async def test_a_destroyed_month_stays_in_the_list_and_can_be_destroyed_again(
    asm: Command, store: KeyStore, pools: Pools
) -> None:
    arguments = ["keys", "destroy", str(OLD), "--reason", "thời hạn lưu trữ", "--confirm", str(OLD)]
    result = await asm(*arguments)
    done = json.loads(result.stdout)
    assert done["destroyed"] == [f"data/{OLD}/1", f"index/{OLD}/1"]
    assert datetime.fromisoformat(done["no_copy_after"]) > datetime.now(UTC) + timedelta(days=34)
    assert "Destroy every backup" in result.stderr
    again = await asm(*arguments)
    assert (again.exit_code, json.loads(again.stdout)) == (DONE, {**done, "destroyed": []})
    states = {key["name"]: key["state"] for key in json.loads((await asm("keys", "list", "--json")).stdout)}
    assert states[f"data/{OLD}/1"] == states[f"index/{OLD}/1"] == "destroyed"
    with pytest.raises(UnknownEpoch):
        store.keyring().seal(RecordName("stay", OLD, 1, epoch_bounds(OLD)[0], 1, 1), b"{}")
    assert [entry["details"] for entry in await actions(pools)] == [{"reason": "thời hạn lưu trữ"}] * 2
    [certified] = json.loads((await asm("retention", "list", "--json")).stdout)
    assert (certified["subject"], certified["state"], certified["kept"]) == (f"epoch/{OLD}", "ended", 0)


async def test_the_commands_work_alike_with_the_root_in_a_vault(asm: Command, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(vault.TOKEN)
    token.chmod(0o600)
    with vault.serve() as transit:
        given = {
            "ASM_KEY_STORE": str(tmp_path / "in-vault"),
            "ASM_KEY_PROVIDER": "vault",
            "ASM_KEY_VAULT_URL": transit.url,
            "ASM_KEY_VAULT_TOKEN_FILE": str(token),
        }
        assert (await asm("keys", "init", **given)).exit_code == DONE
        assert (await asm("keys", "rotate", **given)).exit_code == DONE
        assert (await asm("keys", "verify", **given)).exit_code == DONE
        assert not (tmp_path / "in-vault" / "root.key").exists()
        transit.sealed = True
        result = await asm("keys", "public", **given)
        assert (result.exit_code, "status 503" in result.stderr) == (UNREADY, True)
        assert (await asm("keys", "list", **given)).exit_code == DONE  # it opens nothing
        assert KeyStore(tmp_path / "in-vault", VaultRoot(transit.url, "asm-root", token)).inventory()


def test_every_fault_has_its_text_in_both_languages() -> None:
    assert all(vi and en and vi != en for vi, en in FAULT_TEXTS.values())


async def test_a_hold_that_comes_while_a_key_is_being_retired_waits_until_that_is_decided(
    environment: dict[str, str], store: KeyStore, keyring: Keyring, pools: Pools, epoch: int, intake: Intake,
    facility: Facility, clock: Clock, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(1), clock)])
    assert outcome.stay
    superuser, pool = await pools.database.connect(), await pools.get("asm_retention")
    await superuser.execute("UPDATE stays SET sealed = set_byte(sealed, 60, 255 - get_byte(sealed, 60))")
    renewed_long_ago(store, epoch)
    order = ("15/2026/HS-PC02", "điều tra", clock(), "operator:test")
    hold = Hold(uuid7(), facility.id, outcome.stay.id, None, None, *order)
    left_under, placing = resealing.left_under, []

    async def held_meanwhile(*arguments: Any, **limits: Any) -> resealing.Left:
        placing.append(asyncio.create_task(retention.place_hold(pool, keyring, hold)))
        await waits_or_is_done(superuser, placing[0])
        return await left_under(*arguments, **limits)

    monkeypatch.setattr(resealing, "left_under", held_meanwhile)
    await _retire(load_settings(environment), KeyName.parse(f"data/{epoch}/1"), "khoá bị lộ", 1)
    assert f"data/{epoch}/1" not in {str(key.name) for key in store.read()}
    assert await placing[0] == 1
