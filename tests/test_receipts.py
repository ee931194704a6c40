"""Receipts, verified by the daemon's code and by the stand-alone verifier, which must always agree."""

from __future__ import annotations

import base64
import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from asm_daemon.__main__ import app
from asm_daemon.crypto import KeyPurpose, Keyring, SigningKey, WrongPurpose
from asm_daemon.keystores import create_store
from asm_daemon.ledger import Checkpoint, canonical_json, sign_checkpoint, sign_note
from asm_daemon.receipts import (
    BadReceipt,
    ReceiptLeaf,
    SignedBatch,
    declared_digest,
    receipt,
    sign_batch,
    verify_receipt,
)

NOW = datetime(2026, 11, 23, 8, 0, 0, 123456, tzinfo=UTC)
BATCH = UUID("01a19467-e800-7000-8000-00000000b001")
SALT = bytes(range(16))
DECLARED = {"guest": {"full_name": "NGUYỄN VĂN THỬ", "document": {"type": 1, "number": "000190000001"}}, "room": None}
SCRIPT = Path(__file__).parent.parent / "docs" / "verify_receipt.py"


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return Keyring(create_store(tmp_path_factory.mktemp("keys") / "store", [], NOW).read)


@pytest.fixture(scope="module")
def key(keyring: Keyring) -> SigningKey:
    return keyring.signing_key(KeyPurpose.RECEIPT)


@pytest.fixture(scope="module")
def standalone() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_receipt", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaf(number: int = 0) -> ReceiptLeaf:
    return ReceiptLeaf(
        stay_id=UUID(int=(0x01A19467E8007000 << 64) + (0x8 << 60) + number),
        version=1,
        facility="HY-KS-0001",
        event="declare",
        received_at=NOW + timedelta(seconds=number),
        deadline_at=NOW,
        late_minutes=1,
        sealed_sha256=bytes([number % 256]) * 32,
        declared_digest=declared_digest(SALT, canonical_json(DECLARED)),
    )


def batch(key: SigningKey, size: int) -> tuple[list[ReceiptLeaf], SignedBatch]:
    leaves = [leaf(number) for number in range(size)]
    return leaves, sign_batch([one.hash() for one in leaves], BATCH, "asm.test", key, NOW)


@pytest.fixture(scope="module")
def good(key: SigningKey) -> dict[str, Any]:
    leaves, signed = batch(key, 5)
    return receipt(leaves[3], SALT, 3, signed.tree, signed.note)


def agree(standalone: ModuleType, shown: Any, key: SigningKey) -> bool:
    """Tell whether the receipt is accepted; both verifiers must say the same."""
    try:
        verify_receipt(shown, key.public_key_bytes)
        accepted = True
    except BadReceipt:
        accepted = False
    try:
        standalone.verify(shown, key.public_key_pem.encode())
    except Exception:  # noqa: BLE001 - whatever it raises, it does not accept
        assert not accepted
    else:
        assert accepted
    return accepted


def changed(member: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda shown: shown.update({member: value})


def note_changed(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    return lambda shown: shown.update(checkpoint=shown["checkpoint"].replace(old, new))


TAMPERINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another version of the format": changed("receipt_version", 2),
    "another stay": changed("stay_id", "01a19467-e800-7000-8000-00000000beef"),
    "another row version": changed("version", 2),
    "the version as text": changed("version", "1"),
    "the version as a truth": changed("version", True),
    "another facility": changed("facility", "HY-KS-0002"),
    "another event": changed("event", "cancel"),
    "received earlier": changed("received_at", "2026-11-22T08:00:00.000000Z"),
    "the same instant written otherwise": changed("received_at", "2026-11-23T08:00:03.123456+00:00"),
    "a later deadline": changed("deadline_at", "2026-11-24T08:00:00.000000Z"),
    "not late": changed("late_minutes", 0),
    "another sealed record": changed("sealed_sha256", "00" * 32),
    "another declaration": changed("declared_digest", "00" * 32),
    "a member more": changed("guest", "NGUYỄN VĂN THỬ"),
    "a member less": lambda shown: shown.pop("event"),
    "no proof": lambda shown: shown.pop("proof"),
    "text that is not Unicode": changed("facility", "\ud800"),
    "a number beyond 64 bits": changed("version", 2**64),
    "another place": changed("leaf_index", 2),
    "a negative place": changed("leaf_index", -1),
    "a place outside": changed("leaf_index", 5),
    "a shorter proof": lambda shown: shown["proof"].pop(),
    "a longer proof": lambda shown: shown["proof"].append("00" * 32),
    "another proof": lambda shown: shown["proof"].reverse(),
    "a proof that is no hash": lambda shown: shown["proof"].append("zz"),
    "a proof that is no list": changed("proof", "00" * 32),
    "another origin": note_changed("b001\n", "b002\n"),
    "another size": note_changed("\n5\n", "\n6\n"),
    "signed at another time": note_changed("signed_at 2026", "signed_at 2025"),
    "signed by another name": note_changed("— asm.test/receipts ", "— asm.test/other "),
    "no signature": lambda shown: shown.update(checkpoint=shown["checkpoint"].partition("\n\n")[0] + "\n"),
    "no checkpoint": changed("checkpoint", ""),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_receipt_that_was_tampered_with_is_refused(
    standalone: ModuleType, good: dict[str, Any], key: SigningKey, tampering: str
) -> None:
    shown = copy.deepcopy(good)
    TAMPERINGS[tampering](shown)
    assert json.dumps(shown) != json.dumps(good)
    assert not agree(standalone, shown, key)


def test_a_receipt_signed_by_another_key_is_refused(
    standalone: ModuleType, good: dict[str, Any], keyring: Keyring
) -> None:
    assert not agree(standalone, good, keyring.signing_key(KeyPurpose.CHECKPOINT))


def test_a_trial_receipt_does_not_pass_for_a_real_one(
    standalone: ModuleType, keyring: Keyring, key: SigningKey
) -> None:
    trial_key = keyring.signing_key(KeyPurpose.RECEIPT_TRIAL)
    leaves, signed = batch(trial_key, 2)
    shown = receipt(leaves[0], SALT, 0, signed.tree, signed.note)
    assert not agree(standalone, shown, key)
    assert agree(standalone, shown, trial_key)
    assert verify_receipt(shown, trial_key.public_key_bytes).trial
    assert "asm.test/receipts/trial/" in shown["checkpoint"]
    shown["checkpoint"] = shown["checkpoint"].replace("/receipts/trial", "/receipts")
    assert not agree(standalone, shown, trial_key)


@pytest.mark.parametrize("purpose", [KeyPurpose.RECEIPT_TRIAL, KeyPurpose.CHECKPOINT])
def test_a_published_key_for_something_else_signs_no_receipt_under_its_name(
    standalone: ModuleType, keyring: Keyring, key: SigningKey, purpose: KeyPurpose, tmp_path: Path
) -> None:
    other = keyring.signing_key(purpose)
    leaves, signed = batch(key, 1)
    text = signed.note.rpartition("\n\n")[0] + "\n"
    shown = receipt(leaves[0], SALT, 0, signed.tree, sign_note(text, "asm.test/receipts", other))
    paths = [tmp_path / name for name in ("receipt.json", "published.pem")]
    paths[0].write_text(json.dumps(shown))
    paths[1].write_text("".join(f"{each.key_id}\n{each.public_key_pem}" for each in (key, other)))
    with pytest.raises(ValueError, match="signed by another key"):
        standalone.verify(shown, paths[1].read_bytes())
    told = CliRunner().invoke(app, ["receipt", "verify", str(paths[0]), "--public-key", str(paths[1])])
    assert (told.exit_code, "not signed by this key" in told.stdout) == (1, True)


def both_say(standalone: ModuleType, shown: dict[str, Any], pem: bytes, folder: Path) -> tuple[bool, str]:
    """Tell whether the receipt is accepted with a file of keys, and what the command says; both must say the same."""
    (folder / "receipt.json").write_text(json.dumps(shown))
    (folder / "keys.pem").write_bytes(pem)
    arguments = ["receipt", "verify", str(folder / "receipt.json"), "--public-key", str(folder / "keys.pem")]
    told, refused = CliRunner().invoke(app, arguments), ""
    try:
        standalone.verify(shown, pem)
    except ValueError as error:
        refused = str(error)
    assert (told.exit_code, "is not its name" in refused) in ((0, False), (1, True))
    return told.exit_code == 0, told.stdout


@pytest.mark.parametrize(
    "before",
    [
        "  checkpoint/1\n",
        "\tcheckpoint/1\r\n",
        "\ufeffcheckpoint/1\n",
        "\ufeff\r\n  receipt_trial/1\r\n",
        "checkpoint/1\n\n",
    ],
)
def test_a_name_counts_wherever_an_editor_has_moved_it(
    standalone: ModuleType, good: dict[str, Any], key: SigningKey, before: str, tmp_path: Path
) -> None:
    accepted, said = both_say(standalone, good, f"{before}{key.public_key_pem}".encode(), tmp_path)
    assert not accepted
    assert "no key named receipt is among" in said
    assert "no key name before" not in said


@pytest.mark.parametrize(
    "before",
    [
        "# checkpoint/1\n",
        "# receipt/1\n",
        "receipt/1 (old)\n",
        "receipt/1\ncheckpoint/1\n",
        "checkpoint/1 -\n",
        "-",
        "data/202611/1\n",
        "khoá/1\n",
        "\ufeff\ufeffcheckpoint/1\n",
        "receipt/1\n-----BEGIN PUBLIC KEY-----\nMCow\n",
    ],
)
def test_a_key_after_text_that_is_no_name_is_not_believed_and_the_command_says_so(
    standalone: ModuleType, good: dict[str, Any], key: SigningKey, keyring: Keyring, before: str, tmp_path: Path
) -> None:
    pem, trial = f"{before}{key.public_key_pem}", keyring.signing_key(KeyPurpose.RECEIPT_TRIAL)
    for published in (pem, f"{trial.key_id}\n{trial.public_key_pem}{pem}"):
        accepted, said = both_say(standalone, good, published.encode(), tmp_path)
        assert not accepted
        assert "Tệp khoá có chữ không phải tên khoá" in said
        assert "holds text that is no key name before a public key" in said
    assert both_say(standalone, good, f"{pem}receipt/1\n{key.public_key_pem}".encode(), tmp_path)[0]


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_file_of_keys_that_went_through_windows_is_read_alike(
    standalone: ModuleType, good: dict[str, Any], keyring: Keyring, start: str, line_end: str, tmp_path: Path
) -> None:
    keys = [keyring.signing_key(each) for each in (KeyPurpose.RECEIPT, KeyPurpose.CHECKPOINT)]
    one, other = (f"{start}{each.key_id}\n{each.public_key_pem}" for each in keys)
    bare = f"{start}{keys[0].public_key_pem}"
    for published in (one + other, other + one, bare, other + bare):
        content = published.replace("\n", line_end).encode()
        assert both_say(standalone, good, content, tmp_path)[0]


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("asm.test/audit", 1, leaf().hash(), ("signed_at 2026-11-23T08:00:00.000000Z",)),
        Checkpoint(f"asm.test/receipts/{BATCH}", 1, leaf().hash()),
        Checkpoint(f"asm.test/receipts/{BATCH}", 1, leaf().hash(), ("signed_at 2026-11-23T08:00:00.000000Z", "x")),
        Checkpoint(f"asm.test/receipts/{BATCH}", 1, leaf().hash(), ("issued 2026-11-23T08:00:00.000000Z",)),
    ],
)
def test_a_checkpoint_that_is_not_of_receipts_makes_no_receipt(
    standalone: ModuleType, key: SigningKey, checkpoint: Checkpoint
) -> None:
    _, signed = batch(key, 1)
    note = sign_checkpoint(checkpoint, "asm.test/receipts", key)
    assert not agree(standalone, receipt(leaf(), SALT, 0, signed.tree, note), key)


def test_only_a_key_for_receipts_signs_them(keyring: Keyring) -> None:
    with pytest.raises(WrongPurpose):
        batch(keyring.signing_key(KeyPurpose.CHECKPOINT), 1)


def test_an_empty_batch_is_not_signed(key: SigningKey) -> None:
    with pytest.raises(ValueError, match="nothing to sign"):
        batch(key, 0)


@pytest.mark.parametrize("salt", [b"", bytes(15), bytes(17)])
def test_a_salt_of_the_wrong_size_is_refused(salt: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        declared_digest(salt, b"{}")


def test_other_declared_fields_or_another_salt_are_not_what_was_declared(
    standalone: ModuleType, good: dict[str, Any], key: SigningKey
) -> None:
    other_salt = {**good, "salt": "00" * 16}
    for shown, declared in ((good, {**DECLARED, "room": "203"}), (other_salt, DECLARED)):
        assert not verify_receipt(shown, key.public_key_bytes).proves(declared)
        with pytest.raises(ValueError, match="other fields were declared"):
            standalone.verify(shown, key.public_key_pem.encode(), declared)
    assert verify_receipt(good, key.public_key_bytes).proves(DECLARED)
    standalone.verify(good, key.public_key_pem.encode(), DECLARED)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 8, 13, 100])
def test_every_receipt_of_a_batch_verifies_and_says_what_was_signed(
    standalone: ModuleType, key: SigningKey, size: int
) -> None:
    leaves, signed = batch(key, size)
    for index, one in enumerate(leaves):
        shown = json.loads(json.dumps(receipt(one, SALT, index, signed.tree, signed.note)))
        assert agree(standalone, shown, key)
        verified = verify_receipt(shown, key.public_key_bytes)
        assert verified.leaf == one
        assert (verified.batch_id, verified.deployment, verified.signed_at, verified.trial, verified.salt) == (
            BATCH,
            "asm.test",
            NOW,
            False,
            SALT,
        )


def test_signatures_of_witnesses_beside_ours_do_no_harm(
    standalone: ModuleType, good: dict[str, Any], key: SigningKey, keyring: Keyring
) -> None:
    text, _, ours = good["checkpoint"].rpartition("\n\n")
    witness = sign_note(text + "\n", "witness.test/w1", keyring.signing_key(KeyPurpose.CHECKPOINT))
    same_name = f"— asm.test/receipts {base64.b64encode(bytes(68)).decode()}\n"
    for line in (witness.splitlines(keepends=True)[-1], same_name):
        assert agree(standalone, {**good, "checkpoint": f"{text}\n\n{line}{ours}"}, key)


def test_a_batch_signed_again_gives_the_same_bytes(key: SigningKey) -> None:
    assert batch(key, 7)[1].note == batch(key, 7)[1].note


def test_a_receipt_says_nothing_about_the_person(good: dict[str, Any]) -> None:
    assert "THỬ" not in json.dumps(good, ensure_ascii=False)
    assert "000190000001" not in json.dumps(good)


def test_the_standalone_verifier_has_at_most_sixty_lines() -> None:
    assert len(SCRIPT.read_text("utf-8").splitlines()) <= 60


def test_the_standalone_verifier_runs_as_a_program(tmp_path: Path, good: dict[str, Any], key: SigningKey) -> None:
    paths = [tmp_path / name for name in ("receipt.json", "key.pem", "declared.json")]
    paths[1].write_text(key.public_key_pem)
    paths[2].write_text(json.dumps(DECLARED))
    full_view = {"stay_id": "x", "declaration": DECLARED}  # as the API answers
    for shown, status in ((good, 0), ({**good, "late_minutes": 0}, 1), (7, 1), ({"signed": 7}, 1)):
        paths[0].write_text(json.dumps(shown), encoding="utf-8-sig")
        done = subprocess.run([sys.executable, SCRIPT, *paths], capture_output=True, check=False, timeout=30)
        assert done.returncode == status
        assert (b"facility: HY-KS-0001\n" in done.stdout) == (status == 0)
        assert done.stderr.startswith(b"" if status == 0 else "Không chứng minh gì / proves nothing: ".encode())
        assert done.stderr.count(b"\n") == status
    paths[0].write_text(json.dumps(good))
    for declared, status in ((DECLARED, 0), (full_view, 0), ({**DECLARED, "room": "999"}, 1)):
        paths[2].write_text(json.dumps(declared))
        done = subprocess.run([sys.executable, SCRIPT, *paths], capture_output=True, check=False, timeout=30)
        assert (done.returncode, "declared: khớp / as given\n".encode() in done.stdout) == (status, status == 0)
    paths[0].unlink()
    done = subprocess.run([sys.executable, SCRIPT, *paths], capture_output=True, check=False, timeout=30)
    assert (done.returncode, b"No such file" in done.stderr, b"Traceback" in done.stderr) == (1, True, False)
