"""Machine readable zones made from their parts, for the tests of their reader: written anew from ICAO Doc 9303."""

from __future__ import annotations

from itertools import cycle

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def digit(characters: str) -> str:
    """The check digit: weights 7, 3, 1 (Doc 9303-3, 4.9)."""
    weighted = zip(characters.replace("<", "0"), cycle((7, 3, 1)), strict=False)
    return str(sum(ALPHABET.index(each) * weight for each, weight in weighted) % 10)


def filled(text: str, width: int) -> str:
    assert len(text) <= width
    return text.ljust(width, "<")


def checked(text: str, width: int) -> str:
    return filled(text, width) + digit(filled(text, width))


def split_number(number: str) -> tuple[str, str]:
    """The number's field with its check digit, and what of a long number stands in the optional data."""
    if len(number) <= 9:
        return checked(number, 9), ""
    return number[:9] + "<", number[9:] + digit(number)


def td3(
    *,
    code: str = "P",
    state: str = "UTO",
    name: str = "ERIKSSON<<ANNA<MARIA",
    number: str = "TEST00001",
    nationality: str = "FRA",
    birth: str = "740812",
    sex: str = "F",
    expiry: str = "320415",
    optional: str = "",
) -> str:
    """A passport, 2 × 44."""
    first = filled(filled(code, 2) + filled(state, 3) + name, 44)
    number_field, birth_field, expiry_field = checked(number, 9), checked(birth, 6), checked(expiry, 6)
    optional_field = checked(optional, 14)
    composite = digit(number_field + birth_field + expiry_field + optional_field)
    second = number_field + filled(nationality, 3) + birth_field + sex + expiry_field + optional_field + composite
    return f"{first}\n{second}"


def td2(
    *,
    code: str = "I",
    state: str = "UTO",
    name: str = "ERIKSSON<<ANNA<MARIA",
    number: str = "TEST00001",
    nationality: str = "FRA",
    birth: str = "740812",
    sex: str = "F",
    expiry: str = "320415",
    optional: str = "",
) -> str:
    """A card of the larger size, 2 × 36."""
    first = filled(filled(code, 2) + filled(state, 3) + name, 36)
    number_field, rest = split_number(number)
    birth_field, expiry_field = checked(birth, 6), checked(expiry, 6)
    optional_field = filled(rest or optional, 7)
    composite = digit(number_field + birth_field + expiry_field + optional_field)
    second = number_field + filled(nationality, 3) + birth_field + sex + expiry_field + optional_field + composite
    return f"{first}\n{second}"


def td1(
    *,
    code: str = "I",
    state: str = "UTO",
    name: str = "ERIKSSON<<ANNA<MARIA",
    number: str = "TEST00001",
    nationality: str = "FRA",
    birth: str = "740812",
    sex: str = "F",
    expiry: str = "320415",
    optional: str = "",
    more: str = "",
) -> str:
    """A card, 3 × 30; `optional` and `more` are the optional data of its first and its second line."""
    number_field, rest = split_number(number)
    birth_field, expiry_field = checked(birth, 6), checked(expiry, 6)
    optional_field, more_field = filled(rest or optional, 15), filled(more, 11)
    composite = digit(number_field + optional_field + birth_field + expiry_field + more_field)
    first = filled(code, 2) + filled(state, 3) + number_field + optional_field
    second = birth_field + sex + expiry_field + filled(nationality, 3) + more_field + composite
    return f"{first}\n{second}\n{filled(name, 30)}"


def back_of_card(
    number: str = "000190000001",
    *,
    name: str = "NGUYEN<<THI<THU",
    birth: str = "900514",
    sex: str = "F",
    expiry: str = "300514",
    short: str | None = None,
) -> str:
    """The back of a thẻ CCCD: its number once as the last nine digits, once whole with a check digit at the end."""
    return td1(
        code="ID",
        state="VNM",
        name=name,
        number=number[3:] if short is None else short,
        nationality="VNM",
        birth=birth,
        sex=sex,
        expiry=expiry,
        optional=f"{number}<<{digit(number)}" if number else "",
    )
