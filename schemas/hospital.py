"""What a facility says about its HL7 sender: how its messages are to be read (hệ thống gửi của bệnh viện)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

CHARSETS: Mapping[str, str] = {
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UNICODE": "utf-8",
    "ASCII": "utf-8",
    "8859/1": "latin-1",
    "WINDOWS-1258": "cp1258",
    "CP1258": "cp1258",
}
"""The names of MSH-18 that are understood, and what they are called here."""
DEFAULT_CHARSET = "UNICODE UTF-8"
PATIENT_CLASSES = frozenset("EIOPRBCNU")
"""HL7 table 0004: emergency, in-patient, out-patient, pre-admission, recurring, obstetrics and others."""
OVERNIGHT_CLASSES = ("I", "B", "E:bed")
CLASS_FORM = re.compile(r"[A-Z0-9]{1,8}(?::bed)?", re.ASCII)
"""A patient class (PV1-2), or one of which only those stay who have been given a bed (PV1-3.3)."""


@dataclass(frozen=True, slots=True)
class HospitalProfile:
    """How the messages of one sender are read.

    `overnight_classes` are the patient classes of those who stay overnight (`CLASS_FORM`), `charset` is that of
    messages whose MSH-18 is empty. `relative_role` is the contact role (NK1-7) of relatives who stay with the patient
    (người nhà ở cùng); None declares no relatives.
    """

    overnight_classes: tuple[str, ...] = OVERNIGHT_CLASSES
    charset: str = DEFAULT_CHARSET
    relative_role: str | None = None

    def stays(self, patient_class: str | None, bed: str | None) -> bool | None:
        """Whether a patient of this class stays overnight; None for a class that nobody has explained.

        Without a class the event itself has to be believed.
        """
        if patient_class is None or patient_class in self.overnight_classes:
            return True
        if f"{patient_class}:bed" in self.overnight_classes:
            return bed is not None
        return False if patient_class in PATIENT_CLASSES else None
