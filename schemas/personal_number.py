"""The personal number (số định danh cá nhân) of a Vietnamese citizen: what its twelve digits say about its holder.

`PPP` is the place of birth registration, `G` century and sex (0 man, 1 woman born 19xx, 2 and 3 20xx, and so on), `YY`
the year of birth, then six digits. There is no check digit, and numbers were given out with errors: what disagrees is
a warning for people, never a reason to refuse.
"""

from __future__ import annotations

from collections.abc import Iterator

from schemas.violations import Violation, violation

# Three-digit places of birth registration run 001 to 096; 000 is our documented range for synthetic people.
_BIRTH_PLACES = frozenset(f"{number:03d}" for number in range(97))


def birth_year(number: str) -> int:
    """The year of birth that a number of twelve digits states."""
    return 1900 + 100 * (int(number[3]) // 2) + int(number[4:6])


def disagreements(
    number: str, gender: str | None, birth_date: str | None, pointer: str, place: str | None = None
) -> Iterator[Violation]:
    """Warnings at `pointer` where a number of twelve digits disagrees with gender, birth date (ISO), or the places."""
    if number[:3] not in _BIRTH_PLACES:
        yield violation("personal_number_prefix", pointer, place)
    if gender is not None and (int(number[3]) % 2 == 0) != (gender == "M"):
        yield violation("personal_number_sex", pointer, place)
    if birth_date is not None and int(birth_date[:4]) != birth_year(number):
        yield violation("personal_number_year", pointer, place)
