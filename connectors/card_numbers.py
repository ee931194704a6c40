"""Payment cards: what hotel software sends along and nobody here may see (PCI DSS counts whoever stores it).

Whole branches about payment are dropped by name; what looks like a card number anywhere else is taken out of its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PAYMENT = re.compile(
    r"payment|guarantee|deposit|creditcard|cardnumber|cardholder|cardcode|cardtype|seriescode|cvv|cvc|track[12]|iban|"
    r"bankacct|bankaccount|expiredateofcard|^card$|^cards$|^pan$|folio|invoice",
    re.IGNORECASE,
)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DIGITS = re.compile(r"\d(?:[ .-]?\d){12,18}", re.ASCII)


def is_payment(name: str) -> bool:
    """Whether an element or a member of this name is about payment, with all that is in it."""
    return _PAYMENT.search(name.replace("_", "").replace("-", "")) is not None


def holds_card_number(text: str) -> bool:
    """Whether 13 to 19 digits with a sound check digit (ISO/IEC 7812-1) stand in the text, grouped or not."""
    if _UUID.fullmatch(text):
        return False
    return any(_has_sound_run(re.sub(r"\D", "", found[0])) for found in _DIGITS.finditer(text))


def without_card_numbers(text: str) -> str:
    """The text, or nothing of it: beside a card number there is no telling what else belongs to the card."""
    return "" if holds_card_number(text) else text


def without_payment(value: Any) -> Any:
    """JSON without members about payment, and without texts that hold a card number. A long number counts as a text."""
    if isinstance(value, Mapping):
        return {name: without_payment(inner) for name, inner in value.items() if not is_payment(str(name))}
    if isinstance(value, list):
        return [without_payment(inner) for inner in value]
    if isinstance(value, str):
        return without_card_numbers(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return None if holds_card_number(str(value)) else value
    return value


def _has_sound_run(digits: str) -> bool:
    return any(
        _is_sound(digits[start : start + length])
        for length in range(13, 20)
        for start in range(len(digits) - length + 1)
    )


def _is_sound(digits: str) -> bool:
    """The Luhn check, for numbers of a payment industry (ISO/IEC 7812: first digit 2 to 6)."""
    if digits[0] not in "23456":
        return False
    doubled = (int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits)))
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0
