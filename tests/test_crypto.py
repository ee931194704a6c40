"""Keys, sealed records, blind indexes: first everything that must be refused."""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import hashlib
import hmac
import json
import os
import shutil
import stat
import threading
import unicodedata
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid1, uuid4

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from asm_daemon import crypto, keyfiles
from asm_daemon.crypto import (
    IndexField,
    Key,
    KeyName,
    KeyPurpose,
    Keyring,
    KeyStoreBusy,
    KeyStoreDamaged,
    KeyStoreError,
    KeyStoreExists,
    KeyStoreExposed,
    KeyStoreMissing,
    RecordName,
    Tampered,
    UnknownEpoch,
    WrongPurpose,
    document_value,
    epoch_at,
    epoch_bounds,
    epoch_of,
    generate_auditor_keys,
    name_values,
    next_epoch,
    open_as_auditor,
    seal_to_auditor,
    verify_signature,
)
from asm_daemon.keystores import KeyStore, create_store, open_keyring
from schemas.folding import fold_document, fold_name, fold_tokens
from tests.stack import known_keys

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
STAY = UUID("01a19467-e800-7abc-8def-000000000001")
RECORD = RecordName("stay", 202611, 7, STAY, 1, 3)
PLAINTEXT = b'{"guest":{"full_name":"NGUY\xe1\xbb\x84N V\xc4\x82N TH\xe1\xbb\xac"}}'
GOLDEN = json.loads((Path(__file__).parent / "golden" / "folding.json").read_text("utf-8"))


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return create_store(tmp_path / "keys", [202611], NOW)


@pytest.fixture(scope="module")
def keyring() -> Keyring:
    return Keyring(known_keys)


# --- epochs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [uuid1(), uuid4(), UUID(int=0), UUID("01a19467-e800-7abc-0def-000000000001")])
def test_an_id_that_is_no_uuid7_has_no_epoch(other: UUID) -> None:
    with pytest.raises(ValueError, match="not a UUIDv7"):
        epoch_of(other)


@pytest.mark.parametrize("epoch", [202600, 202613, 0])
def test_what_is_no_month_has_no_bounds(epoch: int) -> None:
    with pytest.raises(ValueError, match=r"month|year"):
        epoch_bounds(epoch)


def test_the_epoch_is_the_utc_month_in_the_id_up_to_the_last_millisecond() -> None:
    def at(instant: datetime) -> UUID:
        return UUID(int=(round(instant.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62))

    first = datetime(2026, 12, 1, tzinfo=UTC)
    assert epoch_of(at(first)) == 202612
    assert epoch_of(at(first - timedelta(milliseconds=1))) == 202611
    assert epoch_of(uuid7()) == epoch_at(datetime.now(UTC))


@given(st.integers(2024, 2100), st.integers(1, 12), st.integers(0, 2**74 - 1))
def test_bounds_hold_exactly_the_ids_of_their_epoch(year: int, month: int, rest: int) -> None:
    epoch = year * 100 + month
    lo, hi = epoch_bounds(epoch)
    noise = (7 << 76) | (2 << 62) | (rest & (2**62 - 1)) | ((rest >> 62) << 64)
    assert epoch_of(UUID(int=lo.int | noise)) == epoch
    assert epoch_of(UUID(int=hi.int | noise)) == next_epoch(epoch)
    assert lo < UUID(int=lo.int | noise) < hi
    assert epoch_bounds(next_epoch(epoch))[0] == hi


# --- names of keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "data", "data/1", "data/202613/1", "presence/202611/1", "data/202611/0", "data/202611/256", "data/202611/01",
     "DATA/202611/1", "secret/1", "presence/1 ", "presence/1\n"],
)  # fmt: skip
def test_what_is_no_key_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"key name|KeyPurpose"):
        KeyName.parse(text)


def test_a_key_name_reads_back_as_it_is_written() -> None:
    for text in ("data/202611/255", "index/202601/1", "receipt_trial/12"):
        assert str(KeyName.parse(text)) == text


# --- the key store: what it refuses --------------------------------------------------------------------------------


def test_a_directory_without_a_key_store_is_missing_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreMissing):
        open_keyring(tmp_path / "nowhere")
    tmp_path.chmod(0o700)
    with pytest.raises(KeyStoreMissing):
        open_keyring(tmp_path)


@pytest.mark.parametrize("left", ["root.key", "keys.json"])
def test_half_a_key_store_is_damage_and_is_never_created_over(tmp_path: Path, left: str) -> None:
    folder = tmp_path / "keys"
    create_store(folder, [202611], NOW)
    for name in ("root.key", "keys.json"):
        if name != left:
            (folder / name).unlink()
    before = (folder / left).read_bytes()
    with pytest.raises(KeyStoreDamaged):
        open_keyring(folder)
    with pytest.raises(KeyStoreExists):
        create_store(folder, [202611], NOW)
    assert (folder / left).read_bytes() == before


def test_a_whole_key_store_is_never_created_over(tmp_path: Path, store: KeyStore) -> None:
    before = store.read()
    with pytest.raises(KeyStoreExists):
        create_store(tmp_path / "keys", [202612], NOW)
    assert store.read() == before


@pytest.mark.parametrize(
    "expose",
    [
        lambda folder: folder.chmod(0o750),
        lambda folder: folder.chmod(0o701),
        lambda folder: (folder / "root.key").chmod(0o640),
        lambda folder: (folder / "keys.json").chmod(0o604),
        lambda folder: (folder / "keys.json").chmod(0o620),
    ],
)
def test_a_key_store_that_others_can_open_is_refused(
    tmp_path: Path, store: KeyStore, expose: Callable[[Path], object]
) -> None:
    expose(tmp_path / "keys")
    with pytest.raises(KeyStoreExposed, match="open to others"):
        store.read()


def test_a_key_store_of_another_user_is_refused(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(KeyStoreExposed, match="not to the daemon's user"):
        store.read()


@pytest.mark.parametrize("name", ["root.key", "keys.json"])
def test_links_in_place_of_the_files_are_refused(tmp_path: Path, store: KeyStore, name: str) -> None:
    path = tmp_path / "keys" / name
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)
    with pytest.raises(KeyStoreExposed, match="cannot be opened safely"):
        store.read()


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path, store: KeyStore) -> None:
    (tmp_path / "elsewhere").symlink_to(tmp_path / "keys")
    with pytest.raises(KeyStoreExposed, match="not a directory"):
        open_keyring(tmp_path / "elsewhere")


def edit(folder: Path, change: Callable[[dict[str, dict[str, str]]], object]) -> None:
    path = folder / "keys.json"
    content = json.loads(path.read_bytes())
    change(content["keys"])
    path.write_text(json.dumps(content))


def swap(keys: dict[str, dict[str, str]]) -> None:
    keys["data/202611/1"], keys["index/202611/1"] = keys["index/202611/1"], keys["data/202611/1"]


@pytest.mark.parametrize(
    "change",
    [
        swap,
        lambda keys: keys.update({"data/202612/1": keys["data/202611/1"], "index/202612/1": keys["index/202611/1"]}),
        lambda keys: keys.update({"watch/1": keys.pop("presence/1")}),
        lambda keys: keys.pop("presence/1"),
        lambda keys: keys.pop("index/202611/1"),
        lambda keys: keys["cursor/1"].update(created_at="2020-01-01T00:00:00+00:00"),
        lambda keys: keys["cursor/1"].update(wrapped=keys["cursor/1"]["wrapped"][:-4]),
        lambda keys: keys["cursor/1"].update(wrapped="not base64"),
        lambda keys: keys["cursor/1"].pop("wrapped"),
        lambda keys: keys.update({"cursor/1": None}),
        lambda keys: keys.clear(),
    ],
)
def test_an_entry_that_was_changed_moved_or_removed_is_damage(
    tmp_path: Path, store: KeyStore, change: Callable[[dict[str, dict[str, str]]], object]
) -> None:
    edit(tmp_path / "keys", change)
    with pytest.raises(KeyStoreDamaged):
        store.read()
    with pytest.raises(KeyStoreDamaged):
        store.create_epoch(202612, NOW)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("keys.json", b""),
        ("keys.json", b"[]"),
        ("keys.json", b'{"format":2,"keys":{}}'),
        ("keys.json", b'{"format":1,"keys":'),
        ("keys.json", b" " * (4 * 1024 * 1024 + 1)),
        ("root.key", b""),
        ("root.key", b"asm-root-key/1 " + b"00" * 31),
        ("root.key", b"asm-root-key/1 " + b"zz" * 32),
        ("root.key", b"asm-root-key/2 " + b"00" * 32),
        ("root.key", b"asm-root-key/1 " + b"00" * 32),
    ],
)
def test_a_file_that_was_cut_or_replaced_is_damage(tmp_path: Path, store: KeyStore, name: str, content: bytes) -> None:
    (tmp_path / "keys" / name).write_bytes(content)
    with pytest.raises(KeyStoreDamaged):
        store.read()


def test_one_key_under_two_names_is_damage(tmp_path: Path, store: KeyStore) -> None:
    folder = tmp_path / "keys"
    root = bytes.fromhex((folder / "root.key").read_text().split(" ")[1])
    same = next(key.material for key in store.read() if str(key.name) == "presence/1")
    created_at = "2026-11-23T08:00:00+00:00"
    wrapped = bytes(12) + AESGCM(root).encrypt(bytes(12), same, f"asm-key/1|content/2|{created_at}".encode())
    entry = {"created_at": created_at, "wrapped": base64.b64encode(wrapped).decode()}
    edit(folder, lambda keys: keys.update({"content/2": entry}))
    with pytest.raises(KeyStoreDamaged, match="two names stand for the same key"):
        store.read()


def test_a_writer_does_not_wait_for_ever(tmp_path: Path, store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "_LOCK_SECONDS", 0.05)
    with (tmp_path / "keys" / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(KeyStoreBusy):
            store.create_epoch(202612, NOW)
    assert store.create_epoch(202612, NOW)


def test_errors_of_the_key_store_are_of_one_kind() -> None:
    for kind in (KeyStoreMissing, KeyStoreExists, KeyStoreExposed, KeyStoreDamaged, KeyStoreBusy):
        assert issubclass(kind, KeyStoreError)


# --- the key store: what it does -----------------------------------------------------------------------------------


def test_a_new_store_has_every_key_and_only_its_user_can_open_it(tmp_path: Path, store: KeyStore) -> None:
    folder = tmp_path / "keys"
    assert [str(key.name) for key in store.read()] == [
        "checkpoint/1", "content/1", "cursor/1", "data/202611/1", "index/202611/1", "presence/1", "receipt/1",
        "receipt_trial/1", "reference/1",
    ]  # fmt: skip
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "root.key": 0o600,
        "keys.json": 0o600,
        "lock": 0o600,
    }
    assert len({key.material for key in store.read()}) == 9


def test_no_key_lies_in_the_clear_in_the_key_file(tmp_path: Path, store: KeyStore) -> None:
    content = (tmp_path / "keys" / "keys.json").read_bytes()
    for key in store.read():
        for form in (key.material, key.material.hex().encode(), base64.b64encode(key.material)):
            assert form not in content


def test_the_inventory_names_every_key_and_shows_none(store: KeyStore) -> None:
    inventory = store.inventory()
    assert [(str(facts.name), facts.algorithm) for facts in inventory[:4]] == [
        ("checkpoint/1", "Ed25519"),
        ("content/1", "HMAC-SHA-256"),
        ("cursor/1", "AES-256-GCM"),
        ("data/202611/1", "AES-256-GCM"),
    ]
    assert {facts.created_at for facts in inventory} == {NOW}
    for key in store.read():
        assert key.material.hex() not in repr(inventory)
        assert repr(key.material) not in repr(key)


def test_an_epoch_is_made_once_and_never_overwritten(store: KeyStore) -> None:
    before = store.read()
    assert not store.create_epoch(202611, NOW)
    assert store.read() == before
    assert store.create_epoch(202612, NOW)
    assert set(before) < set(store.read())
    with pytest.raises(ValueError, match="month"):
        store.create_epoch(202613, NOW)


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path, store: KeyStore) -> None:
    made: list[bool] = []
    epochs = [202612, 202701, 202702, 202703] * 3

    def write(epoch: int) -> None:
        made.append(KeyStore(tmp_path / "keys").create_epoch(epoch, NOW))

    threads = [threading.Thread(target=write, args=(epoch,)) for epoch in epochs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 8 + [True] * 4
    assert Keyring(store.read).epochs() == (202611, 202612, 202701, 202702, 202703)


def test_a_writer_that_died_leaves_the_old_keys_and_does_not_hinder_the_next(
    tmp_path: Path, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.read()

    def die(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            store.create_epoch(202612, NOW)
    assert (tmp_path / "keys" / "keys.json.new").exists()
    assert store.read() == before
    assert store.create_epoch(202612, NOW)
    assert not (tmp_path / "keys" / "keys.json.new").exists()


# --- sealed records ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(RECORD, kind="held"),
        dataclasses.replace(RECORD, epoch=202612),
        dataclasses.replace(RECORD, facility_id=8),
        dataclasses.replace(RECORD, stay_id=UUID(int=STAY.int + 1)),
        dataclasses.replace(RECORD, schema_version=2),
        dataclasses.replace(RECORD, version=2),
    ],
)
def test_a_sealed_record_opens_in_no_other_place(keyring: Keyring, other: RecordName) -> None:
    with pytest.raises(Tampered):
        keyring.open(other, keyring.seal(RECORD, PLAINTEXT))


def test_a_change_of_any_bit_is_detected(keyring: Keyring) -> None:
    sealed = keyring.seal(RECORD, PLAINTEXT)
    for at in range(len(sealed)):
        for bit in (1, 128):
            with pytest.raises(Tampered):
                keyring.open(RECORD, sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :])


@pytest.mark.parametrize("length", [0, 1, 17, 18, 33, 34, 97])
def test_a_record_that_was_cut_is_refused(keyring: Keyring, length: int) -> None:
    sealed = keyring.seal(RECORD, PLAINTEXT)
    for part in (sealed[:length], sealed + b"\0"):
        with pytest.raises(Tampered):
            keyring.open(RECORD, part)


def test_a_record_sealed_under_another_key_version_says_so_in_its_header_and_the_header_counts(
    keyring: Keyring,
) -> None:
    sealed = keyring.seal(RECORD, PLAINTEXT)
    assert sealed[5] == 2  # the newest seals
    with pytest.raises(Tampered):
        keyring.open(RECORD, sealed[:5] + b"\x01" + sealed[6:])


def test_an_epoch_without_keys_neither_seals_nor_opens_nor_indexes(keyring: Keyring) -> None:
    other = dataclasses.replace(RECORD, epoch=202701)
    sealed = b"\x01" + (202701).to_bytes(4, "big") + keyring.seal(RECORD, PLAINTEXT)[5:]
    attempts: list[Callable[[], object]] = [
        lambda: keyring.seal(other, PLAINTEXT),
        lambda: keyring.open(other, sealed),
        lambda: keyring.blind_index(202701, 1, IndexField.DOCUMENT, "X"),
    ]
    for attempt in attempts:
        with pytest.raises(UnknownEpoch) as caught:
            attempt()
        assert caught.value.epoch == 202701


def test_an_unknown_epoch_reads_the_store_again_once(store: KeyStore) -> None:
    reads = 0

    def read() -> Iterable[Key]:
        nonlocal reads
        reads += 1
        return store.read()

    keyring = Keyring(read)
    other = dataclasses.replace(RECORD, epoch=202612)
    with pytest.raises(UnknownEpoch):
        keyring.seal(other, PLAINTEXT)
    assert reads == 2
    store.create_epoch(202612, NOW)
    assert keyring.open(other, keyring.seal(other, PLAINTEXT)) == PLAINTEXT
    keyring.blind_index(202612, 1, IndexField.PERSON, "X")
    assert reads == 3


def test_a_store_that_was_lost_while_running_is_reported_not_taken_for_an_unknown_epoch(
    tmp_path: Path, store: KeyStore
) -> None:
    keyring = open_keyring(tmp_path / "keys")
    sealed = keyring.seal(RECORD, PLAINTEXT)
    shutil.rmtree(tmp_path / "keys")
    with pytest.raises(KeyStoreMissing):
        keyring.seal(dataclasses.replace(RECORD, epoch=202612), PLAINTEXT)
    assert keyring.open(RECORD, sealed) == PLAINTEXT  # what is loaded keeps working


def test_more_than_64_kib_are_not_sealed(keyring: Keyring) -> None:
    with pytest.raises(ValueError, match="65,535"):
        keyring.seal(RECORD, bytes(65_536))
    assert keyring.open(RECORD, keyring.seal(RECORD, bytes(65_535))) == bytes(65_535)


@given(st.binary(max_size=400))
def test_whatever_is_sealed_opens_again_and_its_length_shows_only_in_steps_of_64(plaintext: bytes) -> None:
    keyring = Keyring(known_keys)
    sealed = keyring.seal(RECORD, plaintext)
    assert keyring.open(RECORD, sealed) == plaintext
    assert len(sealed) == 34 + 64 * -(-(2 + len(plaintext)) // 64)


def test_no_nonce_repeats_and_nothing_shows_through(keyring: Keyring) -> None:
    sealed = [keyring.seal(RECORD, PLAINTEXT) for _ in range(10_000)]
    assert len({blob[6:18] for blob in sealed}) == 10_000
    assert all(b"guest" not in blob for blob in sealed)


def test_a_process_and_its_fork_draw_different_nonces(keyring: Keyring) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"".join(keyring.seal(RECORD, b"")[6:18] for _ in range(100)))
        os._exit(0)
    os.close(writer)
    own = {keyring.seal(RECORD, b"")[6:18] for _ in range(100)}
    with os.fdopen(reader, "rb") as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    assert len(own | {theirs[at : at + 12] for at in range(0, 1200, 12)}) == 200


def test_a_record_sealed_long_ago_still_opens(keyring: Keyring) -> None:
    # format 1, epoch 202611, key version 1: if this fails, no stored record can be read any more
    header = bytes.fromhex("010003177301")
    context = header + bytes.fromhex("0000000000000007" + STAY.hex + "000100000003") + b"stay"
    padded = (len(PLAINTEXT).to_bytes(2, "big") + PLAINTEXT).ljust(64, b"\0")
    data_key = hashlib.sha256(b"data/202611/1").digest()
    sealed = header + bytes(12) + AESGCM(data_key).encrypt(bytes(12), padded, context)
    assert keyring.open(RECORD, sealed) == PLAINTEXT


# --- purposes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "purpose"),
    [
        (crypto._cipher_of, "presence/1"),
        (crypto._cipher_of, "receipt/1"),
        (crypto._tagger_of, "data/202611/1"),
        (crypto._tagger_of, "checkpoint/1"),
        (crypto._signer_of, "index/202611/1"),
        (crypto._signer_of, "cursor/1"),
    ],
)
def test_a_key_does_only_what_its_purpose_says(use: Callable[[Key], object], purpose: str) -> None:
    with pytest.raises(WrongPurpose):
        use(Key(KeyName.parse(purpose), NOW, bytes(32)))


@pytest.mark.parametrize("purpose", [KeyPurpose.DATA, KeyPurpose.INDEX, KeyPurpose.PRESENCE, KeyPurpose.CURSOR])
def test_only_signing_keys_sign(keyring: Keyring, purpose: KeyPurpose) -> None:
    with pytest.raises(WrongPurpose):
        keyring.signing_key(purpose)


def test_no_secret_shows_in_a_repr(keyring: Keyring) -> None:
    auditor = generate_auditor_keys()
    shown = repr([known_keys(), keyring, keyring._keys, keyring.signing_key(KeyPurpose.RECEIPT), auditor])
    for secret in (*(key.material for key in known_keys()), auditor.private_key):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


# --- folding, blind indexes and tags -------------------------------------------------------------------------------


@pytest.mark.parametrize(("written", "folded"), GOLDEN["names"])
def test_names_fold_as_they_always_did(written: str, folded: str) -> None:
    assert fold_name(written) == folded


@pytest.mark.parametrize(("written", "folded"), GOLDEN["documents"])
def test_document_numbers_fold_as_they_always_did(written: str, folded: str) -> None:
    assert fold_document(written) == document_value(written) == folded


VIETNAMESE = st.text("aăâbcdđeêghiklmnoôơpqrstuưvxyáàảãạấầẩẫậắằẳẵặéèẻẽẹếềểễệíìỉĩịóòỏõọốồổỗộớờởỡợúùủũụứừửữự '-")


@given(VIETNAMESE)
def test_folding_does_not_depend_on_case_composition_or_order(name: str) -> None:
    folded = fold_name(name)
    assert folded == fold_name(folded)
    assert folded == fold_name(unicodedata.normalize("NFD", name)) == fold_name(unicodedata.normalize("NFC", name))
    assert folded == fold_name(name.upper())
    assert folded == fold_name(" ".join(reversed(name.split())))
    assert set(folded) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ ")


def test_the_given_name_is_the_last_word_as_written() -> None:
    assert name_values("Thử Nguyễn Văn", "1990-05") == ("NGUYEN THU VAN|1990-05", "VAN|1990-05")
    assert name_values("---", "1990") == ("|1990", "|1990")
    assert fold_tokens("Thử Nguyễn Văn") == ["THU", "NGUYEN", "VAN"]


def reference_hmac(name: str, message: str) -> bytes:
    return hmac.digest(hashlib.sha256(name.encode()).digest(), message.encode(), "sha256")


def test_an_index_is_the_first_half_of_an_hmac_under_the_index_key_of_the_epoch(keyring: Keyring) -> None:
    for field in IndexField:
        for value in ("000190000001", "", "x" * 200):
            expected = reference_hmac("index/202611/1", f"1|{field.value}|{value}")[:8]
            assert keyring.blind_index(202611, 1, field, value) == int.from_bytes(expected, "big", signed=True)


def test_one_value_has_another_index_in_every_field_and_every_month(keyring: Keyring) -> None:
    values = {keyring.blind_index(epoch, 1, field, "X") for epoch in (202611, 202612) for field in IndexField}
    assert len(values | {keyring.presence_tag("X")}) == 7


def test_tags_are_hmacs_under_their_own_keys(keyring: Keyring) -> None:
    presence = reference_hmac("presence/1", "1|presence|000190000001")[:8]
    assert keyring.presence_tag("000190000001") == int.from_bytes(presence, "big", signed=True)
    assert keyring.reference_tag(7, "PMS|1") == reference_hmac("reference/1", "1|reference|7|PMS|1")[:16]
    assert keyring.content_tag(b"{}") == reference_hmac("content/1", "1|content|{}")[:16]
    assert keyring.reference_tag(7, "1") != keyring.reference_tag(71, "")


# --- cursors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cursor", ["", "A", "AAAA", "====", "é", "a b", "A" * 100, "A" * 38])
def test_what_is_no_cursor_is_refused(keyring: Keyring, cursor: str) -> None:
    with pytest.raises(Tampered):
        keyring.open_cursor("stays/7", cursor)


def test_a_cursor_opens_only_in_its_own_list(keyring: Keyring) -> None:
    cursor = keyring.seal_cursor("stays/7", STAY.bytes)
    assert keyring.open_cursor("stays/7", cursor) == STAY.bytes
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert cursor != keyring.seal_cursor("stays/7", STAY.bytes)
    with pytest.raises(Tampered):
        keyring.open_cursor("stays/8", cursor)


# --- reading the store again ---------------------------------------------------------------------------------------


def test_the_slower_of_two_threads_does_not_put_back_keys_that_were_renewed_meanwhile(
    store: KeyStore,
) -> None:
    """The one that read first is held up until the other has read what came after it."""
    slow, go_on = threading.Event(), threading.Event()

    def read() -> Iterable[Key]:
        keys = store.read()
        if threading.current_thread().name == "slow":
            slow.set()
            assert go_on.wait(10)
        return keys

    keyring = Keyring(read)
    store.renew_epoch(202611, NOW)
    first = threading.Thread(target=keyring.reload, name="slow")
    first.start()
    assert slow.wait(10)
    store.renew_epoch(202611, NOW)
    second = threading.Thread(target=keyring.reload, name="quick")
    second.start()
    second.join(0.1)  # it waits for the other, or has read the newest keys by now
    go_on.set()
    first.join()
    second.join()
    assert keyring.sealing_version(202611) == 3


# --- signatures ----------------------------------------------------------------------------------------------------


def test_a_signature_of_something_else_or_of_somebody_else_is_refused(keyring: Keyring) -> None:
    key, other = keyring.signing_key(KeyPurpose.RECEIPT), keyring.signing_key(KeyPurpose.RECEIPT_TRIAL)
    signature = key.sign(b"message")
    assert verify_signature(key.public_key_bytes, b"message", signature)
    assert not verify_signature(key.public_key_bytes, b"messages", signature)
    assert not verify_signature(other.public_key_bytes, b"message", signature)
    assert not verify_signature(key.public_key_bytes, b"message", signature[:-1])
    assert not verify_signature(b"short", b"message", signature)
    assert (key.key_id, other.key_id) == ("receipt/1", "receipt_trial/1")


# --- sealing to the auditor ----------------------------------------------------------------------------------------


def test_only_the_auditor_opens_what_was_sealed_to_the_auditor_and_only_in_its_place() -> None:
    auditor, other = generate_auditor_keys(), generate_auditor_keys()
    sealed = seal_to_auditor(auditor.public_key, b"entry 1", b"000190000001")
    assert open_as_auditor(auditor.private_key, b"entry 1", sealed) == b"000190000001"
    tampered = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for private_key, info, blob in (
        (other.private_key, b"entry 1", sealed),
        (auditor.private_key, b"entry 2", sealed),
        (auditor.private_key, b"entry 1", tampered),
        (auditor.private_key, b"entry 1", sealed[:40]),
        (auditor.private_key, b"entry 1", b""),
    ):
        with pytest.raises(Tampered):
            open_as_auditor(private_key, info, blob)


def test_the_length_of_search_terms_does_not_show() -> None:
    public_key = generate_auditor_keys().public_key
    assert len({len(seal_to_auditor(public_key, b"", bytes(size))) for size in range(1, 62)}) == 1


@pytest.mark.parametrize("size", [0, 32, 1215, 1217])
def test_what_is_no_key_of_an_auditor_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="public key"):
        seal_to_auditor(bytes(size), b"", b"")
    with pytest.raises(ValueError, match="private key"):
        open_as_auditor(bytes(size), b"", bytes(2000))
