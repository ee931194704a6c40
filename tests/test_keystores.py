"""The key store over each kind of root: files, a token (SoftHSM2), a vault. First what must be refused."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from asm_daemon import keystores
from asm_daemon.crypto import (
    IndexField,
    KeyExhausted,
    KeyName,
    Keyring,
    KeyStoreDamaged,
    KeyStoreError,
    KeyStoreExists,
    KeyStoreExposed,
    KeyStoreMissing,
    KeyStoreUnreachable,
    RecordName,
    Tampered,
    UnknownEpoch,
    epoch_bounds,
)
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.roots import FileRoot, Pkcs11Root, Root, VaultRoot
from tests import vault
from tests.house import wrapped

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
STAY = UUID(int=epoch_bounds(202611)[0].int | (7 << 76) | (2 << 62))
RECORD = RecordName("stay", 202611, 7, STAY, 1, 1)
PLAINTEXT = b'{"full_name":"NGUYEN VAN MAU"}'
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711"


@dataclass
class Kept:
    """A key store with the place where its root is."""

    folder: Path
    root: Root
    transit: vault.Transit | None = None

    def store(self) -> KeyStore:
        """As another process would open it."""
        return KeyStore(self.folder, self.root)


def secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def transit() -> Iterator[vault.Transit]:
    with vault.serve() as served:
        yield served


def softhsm_tokens() -> Path:
    return Path(os.environ["SOFTHSM2_CONF"]).with_name("tokens")


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pkcs11Root:
    """An empty token of this test's own."""
    pytest.importorskip("pkcs11", reason="python-pkcs11 (the extra pkcs11) is not installed")
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM2 is not installed (apt-get install softhsm2)")
    # The module reads its configuration once in a process, so all tests share the folder, each with its own token.
    home = Path(os.environ.get("SOFTHSM2_CONF", "")).parent if "SOFTHSM2_CONF" in os.environ else None
    if home is None:
        home = tmp_path.parent / "softhsm"
        (home / "tokens").mkdir(parents=True)
        (home / "softhsm2.conf").write_text(f"directories.tokendir = {home}/tokens\nlog.level = ERROR\n")
        os.environ["SOFTHSM2_CONF"] = str(home / "softhsm2.conf")
    label = f"asm-{os.urandom(4).hex()}"
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "0815"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    import pkcs11

    pkcs11.lib(str(MODULE)).reinitialize()  # it found its tokens when it was loaded
    return Pkcs11Root(MODULE, label, secret(tmp_path / "pin", PIN))


@pytest.fixture(params=["file", "pkcs11", "vault"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    folder = tmp_path / "keys"
    if request.param == "file":
        made = Kept(folder, FileRoot(folder))
    elif request.param == "pkcs11":
        made = Kept(folder, request.getfixturevalue("token"))
    else:
        served = request.getfixturevalue("transit")
        root = VaultRoot(served.url, "asm-root", secret(tmp_path / "token", vault.TOKEN), timeout_seconds=2)
        made = Kept(folder, root, served)
    create_store(folder, [202611], NOW, made.root)
    return made


# --- what must be refused ------------------------------------------------------------------------------------------


def test_a_root_that_exists_is_never_made_again(kept: Kept) -> None:
    before = kept.store().read()
    with pytest.raises(KeyStoreExists):
        kept.root.create()
    with pytest.raises(KeyStoreExists):
        create_store(kept.folder, [202611], NOW, kept.root)
    (kept.folder / "keys.json").rename(kept.folder / "elsewhere.json")
    with pytest.raises(KeyStoreExists):
        create_store(kept.folder, [202611], NOW, kept.root)
    (kept.folder / "elsewhere.json").rename(kept.folder / "keys.json")
    assert kept.store().read() == before


def test_entries_that_changed_places_do_not_open(kept: Kept) -> None:
    path = kept.folder / "keys.json"
    content = json.loads(path.read_bytes())
    keys = content["keys"]
    for one, other in (("presence/1", "content/1"), ("data/202611/1", "index/202611/1")):
        swapped = {**keys, one: keys[other], other: keys[one]}
        path.write_text(json.dumps({**content, "keys": swapped}))
        with pytest.raises(KeyStoreDamaged, match="does not open"):
            kept.store().read()


def test_a_wrapped_key_that_was_changed_or_is_of_another_kind_does_not_open(kept: Kept) -> None:
    path = kept.folder / "keys.json"
    content = json.loads(path.read_bytes())
    entry = content["keys"]["cursor/1"]
    right = entry["wrapped"]
    blob = bytearray(base64.b64decode(right.rpartition(":")[2]))
    blob[20] ^= 1
    head = right.rpartition(":")[0] + ":" if ":" in right else ""
    for wrong in (head + base64.b64encode(blob).decode(), "", "7:" + right.rpartition(":")[2], "vault:v1:", "\u0111"):
        entry["wrapped"] = wrong
        path.write_text(json.dumps(content))
        with pytest.raises(KeyStoreDamaged):
            kept.store().read()


def test_the_keys_of_one_kind_of_root_are_refused_with_another(kept: Kept, tmp_path: Path) -> None:
    other: Root = FileRoot(tmp_path) if kept.root.provider != "file" else VaultRoot("http://127.0.0.1:1", "k", tmp_path)
    with pytest.raises(KeyStoreError, match="ASM_KEY_PROVIDER"):
        KeyStore(kept.folder, other).read()


def test_the_newest_data_key_is_never_retired(kept: Kept) -> None:
    with pytest.raises(KeyStoreError, match="in use"):
        kept.store().retire(KeyName.parse("data/202611/1"), NOW)
    kept.store().renew_epoch(202611, NOW)
    with pytest.raises(KeyStoreError, match="in use"):
        kept.store().retire(KeyName.parse("index/202611/1"), NOW)  # it goes with its data key, and not before
    with pytest.raises(UnknownEpoch):
        kept.store().retire(KeyName.parse("data/202501/1"), NOW)


def test_an_epoch_that_never_was_is_neither_renewed_nor_destroyed(kept: Kept) -> None:
    with pytest.raises(UnknownEpoch):
        kept.store().renew_epoch(202501, NOW)
    with pytest.raises(UnknownEpoch):
        kept.store().destroy_epoch(202501, "test", NOW)


def test_an_epoch_has_no_more_than_255_versions_of_its_keys(tmp_path: Path) -> None:
    store = create_store(tmp_path / "keys", [202611], NOW)
    for _ in range(254):
        store.renew_epoch(202611, NOW)
    with pytest.raises(KeyStoreError, match="255"):
        store.renew_epoch(202611, NOW)


# --- rotation of the root ------------------------------------------------------------------------------------------


def test_a_renewed_root_opens_the_same_keys_and_the_old_one_opens_nothing(kept: Kept, tmp_path: Path) -> None:
    before = kept.store().read()
    shutil.copytree(kept.folder, tmp_path / "stolen")
    keyring = kept.store().keyring()
    sealed = keyring.seal(RECORD, PLAINTEXT)
    assert kept.store().rotate_root(NOW + timedelta(days=1)) == len(before)
    assert kept.store().read() == before
    keyring.reload()
    assert keyring.open(RECORD, sealed) == PLAINTEXT
    assert {facts.rewrapped_at for facts in kept.store().inventory()} == {NOW + timedelta(days=1)}
    assert not list(kept.folder.glob("keys.*.json"))  # former generations were wrapped by the old root
    if kept.root.provider != "file":  # there the thief has the old root too
        with pytest.raises(KeyStoreDamaged):
            KeyStore(tmp_path / "stolen", kept.root).read()
    assert kept.store().rotate_root(NOW + timedelta(days=2)) == len(before)
    assert kept.store().create_epoch(202612, NOW)
    assert set(before) < set(kept.store().read())


def test_daemons_read_and_seal_while_the_root_is_rotated(kept: Kept) -> None:
    keyring, stop, failures = kept.store().keyring(), threading.Event(), list[BaseException]()

    def work() -> None:
        store = kept.store()
        while not stop.is_set():
            try:
                store.read()
                keyring.reload()
                assert keyring.open(RECORD, keyring.seal(RECORD, PLAINTEXT)) == PLAINTEXT
            except BaseException as error:  # noqa: BLE001 - the test shows it
                failures.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(10):
        kept.store().rotate_root(NOW)
    stop.set()
    thread.join()
    assert failures == []


@pytest.mark.parametrize("step", ["rewrap", "retire"])
def test_a_rotation_that_broke_off_leaves_a_store_that_opens_and_can_be_completed(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = kept.store().read()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(kept.root), step, die)
        with pytest.raises(KeyboardInterrupt):
            kept.store().rotate_root(NOW)
    assert kept.store().read() == before
    kept.store().rotate_root(NOW)
    assert kept.store().read() == before


# --- epochs --------------------------------------------------------------------------------------------------------


def test_a_renewed_data_key_seals_at_once_and_the_old_one_opens_until_it_is_retired(kept: Kept) -> None:
    keyring = kept.store().keyring()
    old = keyring.seal(RECORD, PLAINTEXT)
    assert list(map(str, kept.store().renew_epoch(202611, NOW))) == ["data/202611/2", "index/202611/2"]
    assert keyring.reload()
    assert not keyring.reload()
    assert list(map(str, keyring.superseded())) == ["data/202611/1", "index/202611/1"]
    new = keyring.seal(RECORD, PLAINTEXT)
    assert (old[5], new[5]) == (1, 2)
    assert keyring.open(RECORD, old) == keyring.open(RECORD, new) == PLAINTEXT
    assert [facts.state for facts in kept.store().inventory() if str(facts.name).startswith("data")] == [
        "superseded", "active"
    ]  # fmt: skip
    gone = kept.store().retire(KeyName.parse("data/202611/1"), NOW)
    assert list(map(str, gone)) == ["data/202611/1", "index/202611/1"]
    assert kept.store().retire(KeyName.parse("data/202611/1"), NOW) == ()
    keyring.reload()
    assert keyring.open(RECORD, new) == PLAINTEXT
    with pytest.raises(Tampered):
        keyring.open(RECORD, old)
    assert not {"data/202611/1", "index/202611/1"} & wrapped(kept.folder)
    gone_facts = [facts for facts in kept.store().inventory() if facts.state == "destroyed"]
    assert [(str(facts.name), facts.destroyed_at) for facts in gone_facts] == [
        ("data/202611/1", NOW), ("index/202611/1", NOW)
    ]  # fmt: skip


def test_a_retirement_that_broke_off_leaves_its_key_here_and_is_completed_by_repeating_it(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.store().renew_epoch(202611, NOW)
    kept.store().create_epoch(202612, NOW)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    name = KeyName.parse("data/202611/1")
    for step in ("_forget", "_replace"):
        with monkeypatch.context() as patched:
            patched.setattr(KeyStore, step, die)
            with pytest.raises(KeyboardInterrupt):
                kept.store().retire(name, NOW)
        assert name in [key.name for key in kept.store().read()]
    assert kept.store().retire(name, NOW)
    assert not {"data/202611/1", "index/202611/1"} & wrapped(kept.folder)


def test_an_index_key_is_kept_as_long_as_a_data_key_goes_with_it(tmp_path: Path) -> None:
    store = create_store(tmp_path / "keys", [202611], NOW)
    with store._writing() as content:  # a data key that was renewed alone, before the two were renewed together
        store._add(content, [KeyName.parse("data/202611/2")], NOW)
        store._replace(content, NOW)
    keyring = store.keyring()
    tags = [keyring.blind_index(202611, version, IndexField.DOCUMENT, "X") for version in (1, 2)]
    assert tags[0] == tags[1]
    assert list(map(str, store.renew_epoch(202611, NOW))) == ["data/202611/3", "index/202611/3"]
    keyring.reload()
    assert keyring.blind_index(202611, 2, IndexField.DOCUMENT, "X") == tags[0]
    assert keyring.blind_index(202611, 3, IndexField.DOCUMENT, "X") != tags[0]
    assert list(map(str, store.retire(KeyName.parse("data/202611/1"), NOW))) == ["data/202611/1"]
    assert list(map(str, store.retire(KeyName.parse("data/202611/2"), NOW))) == ["data/202611/2", "index/202611/1"]


def test_keys_are_renewed_after_a_version_only_once(kept: Kept) -> None:
    assert len(kept.store().renew_epoch(202611, NOW, after=1)) == 2
    assert kept.store().renew_epoch(202611, NOW, after=1) == ()
    assert [str(name) for name in kept.store().destroy_epoch(202611, "test", NOW, through=1)] == [
        "data/202611/1", "index/202611/1"
    ]  # fmt: skip
    assert kept.store().destroy_epoch(202611, "test", NOW, through=1) == ()


def test_a_destroyed_epoch_is_gone_from_every_generation_and_never_comes_back(kept: Kept) -> None:
    store = kept.store()
    sealed = store.keyring().seal(RECORD, PLAINTEXT)
    store.create_epoch(202612, NOW)
    store.create_epoch(202701, NOW)
    assert len(list(kept.folder.glob("keys.*.json"))) == 2
    gone = store.destroy_epoch(202611, "retention", NOW)
    assert [str(name) for name in gone] == ["data/202611/1", "index/202611/1"]
    assert store.destroy_epoch(202611, "retention", NOW) == ()
    assert not store.create_epoch(202611, NOW)
    keyring = kept.store().keyring()
    with pytest.raises(UnknownEpoch):
        keyring.open(RECORD, sealed)
    for path in kept.folder.glob("keys*.json"):
        assert "data/202611/1" not in json.loads(path.read_bytes())["keys"]
        assert "index/202611/1" not in json.loads(path.read_bytes())["keys"]
    for path in kept.folder.glob("keys.*.json"):  # a generation put back does not open it either
        shutil.copy(path, kept.folder / "keys.json")
        with pytest.raises(UnknownEpoch):
            kept.store().keyring().open(RECORD, sealed)
    states = {str(facts.name): facts.state for facts in store.inventory() if facts.name.epoch == 202611}
    assert states == {} or set(states.values()) == {"destroyed"}


def test_destruction_that_broke_off_before_the_generations_is_completed_by_repeating_it(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kept.store()
    store.create_epoch(202612, NOW)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(KeyStore, "_forget", die)
        with pytest.raises(KeyboardInterrupt):
            store.destroy_epoch(202611, "retention", NOW)
    assert any("data/202611/1" in json.loads(path.read_bytes())["keys"] for path in kept.folder.glob("keys.*.json"))
    assert store.destroy_epoch(202611, "retention", NOW) == ()
    assert not any("data/202611/1" in json.loads(path.read_bytes())["keys"] for path in kept.folder.glob("keys.*.json"))


def test_what_a_crash_left_beside_a_generation_goes_with_the_next_use_of_the_store(kept: Kept) -> None:
    """It may hold keys that are about to be destroyed, and is no generation that is gone through."""
    left = kept.folder / "keys.1.json.new"
    left.write_bytes((kept.folder / "keys.json").read_bytes())
    kept.store().destroy_epoch(202611, "test", NOW)
    assert not left.exists()


def test_former_generations_are_few_and_do_not_grow_old(tmp_path: Path) -> None:
    store = create_store(tmp_path / "keys", [202611], NOW)
    for month in range(1, 13):
        store.create_epoch(202700 + month, NOW)
    assert len(list((tmp_path / "keys").glob("keys.*.json"))) == keystores.GENERATIONS
    assert not store.create_epoch(202701, NOW + timedelta(days=keystores.GENERATION_DAYS, seconds=1))
    assert not list((tmp_path / "keys").glob("keys.*.json"))
    for path in (tmp_path / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_a_store_of_before_there_were_generations_still_opens(tmp_path: Path) -> None:
    store = create_store(tmp_path / "keys", [202611], NOW)
    path = tmp_path / "keys" / "keys.json"
    content = json.loads(path.read_bytes())
    before = store.read()
    path.write_text(json.dumps({"format": 1, "keys": content["keys"]}))
    assert KeyStore(tmp_path / "keys").read() == before
    assert KeyStore(tmp_path / "keys").create_epoch(202612, NOW)


# --- how much one key seals ----------------------------------------------------------------------------------------


def test_a_key_that_has_sealed_its_limit_seals_no_more_and_its_successor_does(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keystores, "MESSAGE_LIMIT", 5)
    keyring = kept.store().keyring()
    sealed = [keyring.seal(RECORD, PLAINTEXT) for _ in range(5)]
    for _ in range(2):
        with pytest.raises(KeyExhausted, match="data/202611/1"):
            keyring.seal(RECORD, PLAINTEXT)
    with pytest.raises(KeyExhausted):  # nor does another process
        kept.store().keyring().seal(RECORD, PLAINTEXT)
    assert all(keyring.open(RECORD, blob) == PLAINTEXT for blob in sealed)
    kept.store().renew_epoch(202611, NOW)
    keyring.reload()
    assert keyring.seal(RECORD, PLAINTEXT)[5] == 2
    messages = {str(facts.name): facts.messages for facts in kept.store().inventory() if facts.messages is not None}
    assert messages == {"data/202611/1": 5, "data/202611/2": 5}


def test_reading_the_store_again_wastes_nothing_that_was_set_aside(tmp_path: Path) -> None:
    store = create_store(tmp_path / "keys", [202611], NOW)
    keyring = store.keyring()
    for epoch in (202612, 202701, 202702):
        keyring.seal(RECORD, PLAINTEXT)
        store.create_epoch(epoch, NOW)
        keyring.reload()
    [used] = [facts.messages for facts in store.inventory() if str(facts.name) == "data/202611/1"]
    assert used == 2**20


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format":2}', b'{"format":1,"messages":{"data/202611/1":-1}}'])
def test_a_damaged_count_is_reported_not_taken_for_none(tmp_path: Path, content: bytes) -> None:
    store = create_store(tmp_path / "keys", [202611], NOW)
    secret(tmp_path / "keys" / "usage.json", content.decode())
    with pytest.raises(KeyStoreDamaged):
        store.keyring().seal(RECORD, PLAINTEXT)


# --- the token -----------------------------------------------------------------------------------------------------


def test_the_root_never_leaves_the_token(token: Pkcs11Root, tmp_path: Path) -> None:
    import pkcs11

    create_store(tmp_path / "keys", [202611], NOW, token)
    assert not (tmp_path / "keys" / "root.key").exists()
    with token._session() as session:
        [key] = token._keys(session).values()
        assert key[pkcs11.Attribute.SENSITIVE] is True
        assert key[pkcs11.Attribute.EXTRACTABLE] is False
        assert key[pkcs11.Attribute.NEVER_EXTRACTABLE] is True
        assert (key[pkcs11.Attribute.WRAP], key[pkcs11.Attribute.SIGN]) == (False, False)
        with pytest.raises(pkcs11.exceptions.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]


def test_a_wrong_pin_and_an_absent_token_say_so_without_the_pin(token: Pkcs11Root, tmp_path: Path) -> None:
    create_store(tmp_path / "keys", [202611], NOW, token)
    wrong = Pkcs11Root(MODULE, token._token, secret(tmp_path / "wrong", "999999"))
    with pytest.raises(KeyStoreUnreachable, match="PinIncorrect") as caught:
        KeyStore(tmp_path / "keys", wrong).read()
    assert "999999" not in str(caught.value)
    absent = Pkcs11Root(MODULE, "no-such-token", secret(tmp_path / "right", PIN))
    with pytest.raises(KeyStoreUnreachable, match="NoSuchToken"):
        KeyStore(tmp_path / "keys", absent).read()
    with pytest.raises(KeyStoreUnreachable, match="cannot be loaded"):
        KeyStore(tmp_path / "keys", Pkcs11Root(tmp_path / "no.so", "asm", tmp_path / "right")).read()
    (tmp_path / "right").chmod(0o644)
    with pytest.raises(KeyStoreExposed):
        KeyStore(tmp_path / "keys", Pkcs11Root(MODULE, token._token, tmp_path / "right")).read()


class RemovedAtUse(Pkcs11Root):
    """A token that is taken out once its keys were found, before they are used."""

    def _required(self, session: Any) -> dict[int, Any]:
        found = super()._required(session)
        tokens = softhsm_tokens()
        tokens.rename(tokens.with_name("removed"))
        return found


@pytest.mark.parametrize("at_use", [False, True])
def test_a_token_that_was_removed_is_unreachable_not_damage(token: Pkcs11Root, tmp_path: Path, at_use: bool) -> None:
    import pkcs11

    store, tokens = create_store(tmp_path / "keys", [202611], NOW, token), softhsm_tokens()
    root = (RemovedAtUse if at_use else Pkcs11Root)(MODULE, token._token, tmp_path / "pin")
    if not at_use:
        tokens.rename(tokens.with_name("removed"))
    try:
        with pytest.raises(KeyStoreUnreachable, match="refused"):
            KeyStore(tmp_path / "keys", root).read()
    finally:
        tokens.with_name("removed").rename(tokens)
        pkcs11.lib(str(MODULE)).reinitialize()  # SoftHSM2 gives up a token whose files it once missed
    assert KeyStore(tmp_path / "keys", token).read() == store.read()


def test_a_token_without_its_root_key_is_damage(token: Pkcs11Root, tmp_path: Path) -> None:
    create_store(tmp_path / "keys", [202611], NOW, token)
    with token._session() as session:
        for key in token._keys(session).values():
            key.destroy()
    with pytest.raises(KeyStoreDamaged, match="root key"):
        KeyStore(tmp_path / "keys", token).read()


def test_a_daemon_sees_what_another_process_did_in_the_token(token: Pkcs11Root, tmp_path: Path) -> None:
    store = create_store(tmp_path / "keys", [202611], NOW, token)
    before = store.read()
    program = (
        "import sys; from datetime import UTC, datetime; from pathlib import Path\n"
        "from asm_daemon.keystores import KeyStore; from asm_daemon.roots import Pkcs11Root\n"
        "folder, module, token, pin = sys.argv[1:]\n"
        "root = Pkcs11Root(Path(module), token, Path(pin))\n"
        "KeyStore(Path(folder), root).rotate_root(datetime.now(UTC))\n"
    )
    arguments = [str(tmp_path / "keys"), str(MODULE), token._token, str(tmp_path / "pin")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, timeout=60)
    assert store.read() == before
    assert store.create_epoch(202612, NOW)
    assert set(before) < set(KeyStore(tmp_path / "keys", token).read())


# --- the vault -----------------------------------------------------------------------------------------------------


@pytest.fixture
def in_vault(transit: vault.Transit, tmp_path: Path) -> Kept:
    root = VaultRoot(transit.url, "asm-root", secret(tmp_path / "token", vault.TOKEN), timeout_seconds=2)
    create_store(tmp_path / "keys", [202611], NOW, root)
    return Kept(tmp_path / "keys", root, transit)


def test_all_keys_are_opened_by_one_request_and_none_while_nothing_changes(in_vault: Kept) -> None:
    assert in_vault.transit
    in_vault.transit.calls.clear()
    store = in_vault.store()
    keyring = store.keyring()
    for _ in range(3):
        with pytest.raises(UnknownEpoch):  # anybody may ask for a month that has no keys
            keyring.seal(dataclasses.replace(RECORD, epoch=202501), PLAINTEXT)
    assert in_vault.transit.calls == ["POST /v1/transit/decrypt/asm-root"]


def test_rotation_rewraps_inside_the_vault_and_shuts_the_old_version_out(in_vault: Kept) -> None:
    assert in_vault.transit
    in_vault.store().rotate_root(NOW)
    asked = [call.removeprefix("POST /v1/transit/") for call in in_vault.transit.calls]
    assert "rewrap/asm-root" in asked
    assert asked.index("keys/asm-root/rotate") < asked.index("rewrap/asm-root") < asked.index("keys/asm-root/config")
    assert in_vault.transit.least == {"asm-root": 2}
    wrapped = [entry["wrapped"] for entry in json.loads((in_vault.folder / "keys.json").read_bytes())["keys"].values()]
    assert all(text.startswith("vault:v2:") for text in wrapped)


@pytest.mark.parametrize("answer", [b"<html>502</html>", b"{}", b"[]", b'{"data":{"batch_results":[]}}', b""])
def test_an_answer_that_is_none_is_not_taken_for_keys(in_vault: Kept, answer: bytes) -> None:
    assert in_vault.transit
    in_vault.transit.answer = answer
    with pytest.raises(KeyStoreUnreachable):
        in_vault.store().read()
    with pytest.raises(KeyStoreUnreachable):
        in_vault.store().rotate_root(NOW)


def test_a_vault_that_sends_elsewhere_has_done_nothing(in_vault: Kept) -> None:
    assert in_vault.transit
    in_vault.transit.redirects = True
    for step in (in_vault.root.renew, in_vault.root.retire, in_vault.root.create, in_vault.root.exists):
        with pytest.raises(KeyStoreUnreachable, match="307"):
            step()


def test_a_root_that_the_vault_still_opens_is_not_called_shut_out(in_vault: Kept) -> None:
    assert in_vault.transit
    in_vault.transit.deaf = True
    with pytest.raises(KeyStoreUnreachable, match="still decrypts"):
        in_vault.store().rotate_root(NOW)
    in_vault.transit.deaf = False
    in_vault.store().rotate_root(NOW)  # said again, it is completed
    assert in_vault.transit.least == {"asm-root": 3}


def test_a_sealed_vault_a_wrong_token_and_a_dead_address_say_so_without_the_token(
    in_vault: Kept, tmp_path: Path
) -> None:
    assert in_vault.transit
    keyring = in_vault.store().keyring()
    in_vault.transit.sealed = True
    with pytest.raises(KeyStoreUnreachable, match="503"):
        in_vault.store().read()
    assert keyring.open(RECORD, keyring.seal(RECORD, PLAINTEXT)) == PLAINTEXT  # a running daemon goes on
    in_vault.transit.sealed = False
    wrong = VaultRoot(in_vault.transit.url, "asm-root", secret(tmp_path / "wrong", "s.wrong"))
    with pytest.raises(KeyStoreUnreachable, match="403") as caught:
        KeyStore(in_vault.folder, wrong).read()
    assert "s.wrong" not in str(caught.value)
    dead = VaultRoot("http://127.0.0.1:1", "asm-root", tmp_path / "token", timeout_seconds=1)
    with pytest.raises(KeyStoreUnreachable, match="does not answer"):
        KeyStore(in_vault.folder, dead).read()
    with pytest.raises(KeyStoreMissing):
        VaultRoot(in_vault.transit.url, "asm-root", tmp_path / "no-token").exists()


def test_a_keyring_shows_no_key(kept: Kept) -> None:
    keyring: Keyring = kept.store().keyring()
    shown = repr(keyring) + repr(keyring._keys) + repr(kept.store()) + repr(kept.root)
    for key in kept.store().read():
        assert key.material.hex() not in shown
        assert repr(key.material) not in shown
