"""What became of a row, for tests that expect one thing or the other."""

from __future__ import annotations

from schemas.act import Act, Unreadable


def faults(result: Act | Unreadable) -> list[tuple[str, str | None]]:
    """Code and place of everything that was wrong; fails for a row that was taken."""
    assert result is not None
    assert result.violations
    return [(fault.code, fault.place) for fault in result.violations]


def accepted(result: Act | Unreadable) -> Act:
    """The act; fails for a row that was not."""
    assert isinstance(result, Act), result
    assert not result.violations, result
    return result
