"""Issuing receipts: the signed evidence of `receipts`, what it means in words, and the short code to check it by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from asm_daemon import rules
from asm_daemon.crypto import KeyPurpose, Keyring, SigningKey
from asm_daemon.ledger import HASH_BYTES, Tree, canonical_json
from asm_daemon.model import Contents, Facility, ReceiptBatch, StayRow
from asm_daemon.receipts import ReceiptLeaf, declared_digest, receipt, sign_batch

TRIAL_MARK = {
    "vi": "THỬ NGHIỆM – KHÔNG CÓ GIÁ TRỊ PHÁP LÝ",
    "en": "TRIAL – WITHOUT LEGAL EFFECT",
}
TRIAL_ORIGIN = "/receipts/trial/"
EVENTS = {  # what made a version, in Vietnamese and English
    "declare": ("khai báo", "declaration"),
    "correct": ("đính chính", "correction"),
    "check_out": ("khách rời đi", "check-out"),
    "undo_check_out": ("huỷ ghi nhận khách rời đi", "check-out undone"),
    "extend": ("thay đổi ngày dự kiến đi", "change of planned departure"),
    "cancel": ("huỷ khai báo", "cancellation"),
}


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs receipts: the deployment's name, its public address, and whether its receipts have legal effect."""

    deployment: str
    public_url: str
    production: bool
    keyring: Keyring

    def is_trial(self, facility: Facility) -> bool:
        """Whether what is declared there has no legal effect."""
        return facility.sandbox or not self.production

    def key(self, *, trial: bool) -> SigningKey:
        """The signing key; trials have their own, so that no trial receipt ever verifies as a real one."""
        return self.keyring.signing_key(KeyPurpose.RECEIPT_TRIAL if trial else KeyPurpose.RECEIPT)

    def receipt(self, facility: Facility, row: StayRow, contents: Contents, batch: ReceiptBatch) -> dict[str, Any]:
        """The receipt of one version, issued again: the same bytes, as long as the facility's entry is the same."""
        leaf = leaf_of(facility.code, row, contents)
        return self.compose(facility, row, contents, leaf, tree_of(batch), batch.checkpoint)

    def compose(
        self, facility: Facility, row: StayRow, contents: Contents, leaf: ReceiptLeaf, tree: Tree, note: str
    ) -> dict[str, Any]:
        """The receipt of one version.

        `signed` is what verifies offline; the rest says the same in words and gives the code for the check page.
        """
        trial = TRIAL_ORIGIN in note.partition("\n")[0]  # as it was when this was signed, whatever the settings say now
        code = code_of(row.id)
        return {
            "code": code,
            "check_url": f"{self.public_url}/check/{code}",
            "trial": trial,
            "facility": {"code": facility.code, "name": facility.name, "address": facility.address},
            "authority": facility.authority,
            "source_ref": contents.source_ref,
            "statement": _statement(facility, row, contents, trial=trial),
            "signed": receipt(leaf, contents.salt, row.receipt_index, tree, note),
        }


class Draft:
    """The receipts of one transaction while it is being decided: one batch with legal effect, one without."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._leaves: dict[bool, tuple[UUID, list[ReceiptLeaf]]] = {}
        self._signed: dict[UUID, tuple[Tree, str]] = {}
        self._own: dict[UUID, list[ReceiptLeaf]] = {}

    def next_place(self, facility: Facility) -> tuple[UUID, int]:
        """The place that the next version added for this facility will have: (batch id, index)."""
        batch_id, leaves = self._leaves.setdefault(self._issuer.is_trial(facility), (uuid7(), []))
        return batch_id, len(leaves)

    def add(self, facility: Facility, row: StayRow, contents: Contents) -> None:
        """Add a new version at `next_place`, which the row names."""
        self._leaves[self._issuer.is_trial(facility)][1].append(leaf_of(facility.code, row, contents))

    def sign(self, now: datetime) -> list[ReceiptBatch]:
        """Sign what was added; one signature a batch."""
        batches = []
        for trial, (batch_id, added) in self._leaves.items():
            self._own[batch_id], leaves = added, [leaf.hash() for leaf in added]
            signed = sign_batch(leaves, batch_id, self._issuer.deployment, self._issuer.key(trial=trial), now)
            self._signed[batch_id] = (signed.tree, signed.note)
            batches.append(ReceiptBatch(batch_id, now, b"".join(leaves), signed.note))
        return batches

    def remember(self, batch: ReceiptBatch) -> None:
        """Take in an earlier batch, for receipts that are issued again."""
        if batch.id not in self._signed:
            self._signed[batch.id] = (tree_of(batch), batch.checkpoint)

    def receipt(self, facility: Facility, row: StayRow, contents: Contents) -> dict[str, Any]:
        """The receipt of a version whose batch is signed or remembered."""
        tree, note = self._signed[row.receipt_batch_id]
        own = self._own.get(row.receipt_batch_id)
        leaf = own[row.receipt_index] if own else leaf_of(facility.code, row, contents)
        return self._issuer.compose(facility, row, contents, leaf, tree, note)


def tree_of(batch: ReceiptBatch) -> Tree:
    """The Merkle tree over a stored batch."""
    leaves = batch.leaves
    return Tree(leaves[at : at + HASH_BYTES] for at in range(0, len(leaves), HASH_BYTES))


def leaf_of(facility_code: str, row: StayRow, contents: Contents) -> ReceiptLeaf:
    """What the receipt of a version was signed over: the same, however often its blob was sealed anew since."""
    return ReceiptLeaf(
        stay_id=row.id,
        version=row.version,
        facility=facility_code,
        event=row.event,
        received_at=row.received_at,
        deadline_at=row.deadline_at,
        late_minutes=row.late_minutes,
        sealed_sha256=contents.signed_sha256 or sha256(row.sealed).digest(),
        declared_digest=declared_digest(contents.salt, canonical_json(contents.declared)),
    )


def timeliness(late_minutes: int) -> tuple[str, str]:
    """Lateness in words, Vietnamese and English: the minutes that count, and what they amount to."""
    if late_minutes == 0:
        return "đúng hạn", "on time"
    hours, minutes = divmod(late_minutes, 60)
    days, hours = divmod(hours, 24)
    if not days and not hours:
        return f"muộn {minutes} phút", f"{minutes} minutes late"
    vi = " ".join(f"{count} {unit}" for count, unit in ((days, "ngày"), (hours, "giờ"), (minutes, "phút")) if count)
    en = " ".join(f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "min")) if count)
    return f"muộn {late_minutes} phút ({vi})", f"{late_minutes} minutes late ({en})"


def _local(instant: datetime) -> str:
    return _local_minute(int(instant.timestamp()) // 60)


@lru_cache(maxsize=4096)  # receipts of one evening name the same minutes again and again
def _local_minute(minutes: int) -> str:
    return datetime.fromtimestamp(minutes * 60, rules.HANOI).strftime("%H:%M %d/%m/%Y")


def _statement(facility: Facility, row: StayRow, contents: Contents, *, trial: bool) -> Mapping[str, str]:
    """What the receipt proves, in words, for the owner and for whoever inspects the facility."""
    event_vi, event_en = EVENTS[row.event]
    on_time_vi, on_time_en = timeliness(row.late_minutes)
    vi = [
        f"{facility.authority} đã nhận thông báo lưu trú của {facility.name} (mã {facility.code}) cho một khách "
        f"đến lúc {_local(row.arrived_at)}: {event_vi}, phiên bản {row.version}, nhận lúc {_local(row.received_at)}.",
        f"Nghĩa vụ: Điều 30 Luật Cư trú 68/2020/QH14, sửa đổi bởi Luật 118/2025/QH15; hạn {_local(row.deadline_at)}; "
        f"lần khai báo đầu nhận lúc {_local(row.declared_at)}, {on_time_vi}.",
        "Việc đối chiếu với Cơ sở dữ liệu quốc gia về dân cư là bước riêng, không làm mất hiệu lực của biên nhận này.",
    ]
    en = [
        f"{facility.authority} received from {facility.name} (code {facility.code}) the notification of a guest who "
        f"arrived at {_local(row.arrived_at)}: {event_en}, version {row.version}, received {_local(row.received_at)}.",
        f"Duty: Article 30, Law on Residence 68/2020/QH14 as amended by Law 118/2025/QH15; "
        f"due {_local(row.deadline_at)}; first received {_local(row.declared_at)}, {on_time_en}.",
        "The check against the national population database is a separate step and cannot void this receipt.",
    ]
    if rules.deadline(row.arrived_at) != row.deadline_at:
        vi.append("Thời điểm đến đã được đính chính; hạn và việc đúng hạn tính theo lần khai báo đầu.")
        en.append("The arrival was corrected; deadline and timeliness are those of the first declaration.")
    if rules.is_foreigner(contents.declared["guest"]["nationality"]):
        vi.append(
            "Biên nhận này không thay cho khai báo tạm trú của người nước ngoài (mẫu NA17, trong 12 giờ từ khi đến)."
        )
        en.append(
            "This receipt does not cover the foreigner's temporary residence declaration (form NA17, within 12 hours)."
        )
    if trial:
        vi.insert(0, TRIAL_MARK["vi"] + ".")
        en.insert(0, TRIAL_MARK["en"] + ".")
    return {"vi": " ".join(vi), "en": " ".join(en)}


# -- the short code ----------------------------------------------------------------------------------------------------

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no letter that reads as a digit
_READ_AS = str.maketrans("OIL", "011")
_FIRST_MS = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp() * 1000)
_RANDOM_BITS = 34
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
_CODE_CHARACTERS = 15  # 41 bits of milliseconds, good for 69 years, and 34 random bits


class CodeRange(NamedTuple):
    """Where the stay of a code lies: ids from `lo` (included) to `hi` (excluded) that end in `random`."""

    lo: UUID
    hi: UUID
    random: int

    def matches(self, stay_id: UUID) -> bool:
        """Whether this stay's code is the one that was read."""
        return stay_id.int & _RANDOM_MASK == self.random


def code_of(stay_id: UUID) -> str:
    """The short code of a stay: its id's time and a part of its randomness, so that no code has to be stored."""
    value = (((stay_id.int >> 80) - _FIRST_MS) << _RANDOM_BITS) | (stay_id.int & _RANDOM_MASK)
    text = "".join(_ALPHABET[(value >> shift) & 31] for shift in range(5 * (_CODE_CHARACTERS - 1), -1, -5))
    return f"{text[:5]}-{text[5:10]}-{text[10:]}"


def read_code(text: str) -> CodeRange | None:
    """Where to look for the stay of a typed code; None when it cannot be one. Case, dashes and O/I/L are forgiven."""
    characters = text.upper().translate(_READ_AS).replace("-", "").replace(" ", "")
    if len(characters) != _CODE_CHARACTERS or any(character not in _ALPHABET for character in characters):
        return None
    value = 0
    for character in characters:
        value = value << 5 | _ALPHABET.index(character)
    milliseconds = (value >> _RANDOM_BITS) + _FIRST_MS
    return CodeRange(UUID(int=milliseconds << 80), UUID(int=(milliseconds + 1) << 80), value & _RANDOM_MASK)
