"""No reader of the published numbers sees, computes or narrows down an unsafe group, say oracles of another make."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asm_daemon.suppression import (
    Cell,
    Elsewhere,
    Equation,
    Leak,
    Limits,
    Node,
    audit,
    determined,
    project,
    shape_of,
    shapes,
    suppress,
)

LIMITS = Limits()
SQUARE, LATTICE = shapes(2), shapes(3)


def cell(*at: str, facilities: Iterable[int], first: int = 0, measures: tuple[int, ...] = ()) -> Cell:
    """A cell whose facilities are numbered from `first` and hold the persons given."""
    return Cell(at, measures, tuple(enumerate(facilities, first)))


def square(numbers: Mapping[tuple[str, str], int], each: int = 3) -> list[Cell]:
    """A two-way table whose persons are spread over `each` facilities of their own, as evenly as they go."""
    cells = []
    for index, (at, persons) in enumerate(sorted(numbers.items())):
        shares = [persons // each + (i < persons % each) for i in range(each)]
        cells.append(cell(*at, facilities=[share for share in shares if share], first=index * each))
    return cells


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_cell_that_leaves_a_dimension_open_is_refused() -> None:
    with pytest.raises(ValueError, match="spell out"):
        suppress([Cell(("a", None), (), ((1, 20),))], LIMITS)


def test_a_cell_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        suppress([cell("a", "x", facilities=[20])] * 2, LIMITS)


def test_a_single_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="two or three"):
        suppress([cell("a", facilities=[5, 5, 5])], LIMITS)


# --- one group --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("persons_by_facility", "allowed"),
    [
        ([4, 3, 3], True),
        ([3, 3, 3], False),  # nine persons
        ([1] * 9, False),
        ([1] * 10, True),
        ([10], False),  # one facility's own figure
        ([500], False),
        ([50, 50], False),  # either of two facilities can compute the other
        ([85, 10, 5], True),  # exactly 85 %
        ([86, 9, 5], False),
        ([851, 100, 49], False),
        ([17, 2, 1], True),
        ([18, 1, 1], False),
        ([9, 1, 1], True),
        ([1000, 1, 1], False),
    ],
)
def test_a_group_is_safe_with_ten_persons_in_three_facilities_and_none_above_85_percent(
    persons_by_facility: list[int], allowed: bool
) -> None:
    assert LIMITS.allow(dict(enumerate(persons_by_facility))) is allowed
    found = suppress([cell("a", "x", facilities=persons_by_facility)], LIMITS)
    assert bool(found.hidden) is not allowed


def test_a_single_unsafe_cell_takes_every_total_with_it() -> None:
    found = suppress([cell("a", "x", facilities=[2])], LIMITS)
    assert found.hidden == {("a", "x"), ("a", None), (None, "x"), (None, None)}


def test_nothing_is_hidden_when_all_groups_are_safe() -> None:
    numbers = {(row, column): 30 for row in "abc" for column in "xyz"}
    assert suppress(square(numbers), LIMITS).hidden == frozenset()


def test_no_guests_at_all_is_nothing_to_hide() -> None:
    assert suppress([], LIMITS).hidden == frozenset()
    assert audit([], LIMITS, ()) == ()


# --- textbook cases ---------------------------------------------------------------------------------------------------


def test_one_small_cell_draws_a_rectangle_of_partners() -> None:
    numbers = {(row, column): 60 for row in "abc" for column in "xyz"} | {("a", "x"): 4}
    found = suppress(square(numbers), LIMITS)
    assert ("a", "x") in found.hidden
    assert len(found.hidden) == 4
    assert all(None not in node for node in found.hidden)
    assert audit(square(numbers), LIMITS, found.hidden) == ()


def test_hiding_only_the_small_cell_is_found_out_by_the_audit() -> None:
    numbers = {(row, column): 60 for row in "ab" for column in "xy"} | {("a", "x"): 4}
    leaks = audit(square(numbers), LIMITS, {("a", "x")})
    assert Leak(("a", "x"), "determined") in leaks


def test_publishing_a_small_cell_is_found_out_by_the_audit() -> None:
    numbers = {(row, column): 60 for row in "ab" for column in "xy"} | {("a", "x"): 4}
    assert Leak(("a", "x"), "unsafe") in audit(square(numbers), LIMITS, ())


def test_hidden_cells_in_two_rows_and_columns_can_still_be_computed_when_no_cycle_joins_them() -> None:
    numbers = {(row, column): 60 for row in "abc" for column in "xyz"}
    staircase = {("a", "x"), ("a", "y"), ("b", "y"), ("b", "z")}
    assert {leak.node for leak in audit(square(numbers), LIMITS, staircase)} == staircase


def test_small_cells_whose_remainder_is_small_too_get_a_larger_partner() -> None:
    # The row of `a` is published as 62: two hidden cells of one person each would be told to hold two together.
    numbers = {("a", "x"): 1, ("a", "y"): 1, ("a", "z"): 60, ("b", "x"): 60, ("b", "y"): 60, ("b", "z"): 60}
    naive = {("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")}
    assert Leak(("a", None), "remainder") in audit(square(numbers), LIMITS, naive)
    found = suppress(square(numbers), LIMITS)
    assert ("a", "z") in found.hidden or ("a", None) in found.hidden
    assert audit(square(numbers), LIMITS, found.hidden) == ()


def test_two_lone_facilities_are_not_left_alone_with_each_other() -> None:
    # Each of the two owners knows their own figure, so a remainder of these two cells tells each the other's.
    cells = [
        cell("a", "x", facilities=[40], first=1),
        cell("a", "y", facilities=[40], first=2),
        cell("a", "z", facilities=[30, 30, 30], first=10),
        cell("b", "x", facilities=[30, 30, 30], first=20),
        cell("b", "y", facilities=[30, 30, 30], first=30),
        cell("b", "z", facilities=[30, 30, 30], first=40),
    ]
    naive = {("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")}
    assert Leak(("a", None), "remainder") in audit(cells, LIMITS, naive)
    found = suppress(cells, LIMITS)
    assert audit(cells, LIMITS, found.hidden) == ()


def test_a_facility_that_dominates_is_hidden_behind_partners_of_its_own_size() -> None:
    cells = [
        cell("a", "x", facilities=[190, 5, 5], first=0),
        *(
            cell(row, column, facilities=[size] * 3, first=10 + 3 * index)
            for index, (row, column, size) in enumerate(
                [("a", "y", 4), ("a", "z", 60), ("b", "x", 60), ("b", "y", 4), ("b", "z", 60)]
            )
        ),
    ]
    found = suppress(cells, LIMITS)
    assert ("a", "z") in found.hidden or ("a", None) in found.hidden  # 12 persons cannot hide 15 % of 200
    assert audit(cells, LIMITS, found.hidden) == ()


def _spare(rows: Mapping[str, Iterable[int]]) -> list[Cell]:
    """Cells of 20 facilities whose guests exceed one a facility by the numbers given; 0 makes one lone guest."""
    cells: list[Cell] = []
    for row, spares in rows.items():
        for column, spare in zip("xyz", spares, strict=False):
            facilities = [1 + spare // 20 + (i < spare % 20) for i in range(20)] if spare else [1]
            cells.append(cell(row, column, facilities=facilities, first=100 * len(cells)))
    return cells


def test_a_partner_that_can_give_only_one_guest_does_not_hide_a_small_cell() -> None:
    cells = _spare({"a": (0, 1, 60), "b": (60, 60, 60), "c": (60, 60, 60)})
    found = suppress(cells, LIMITS)
    assert _width(cells, SQUARE, found.hidden, ("a", "x")) >= 9


def test_a_partner_is_not_counted_on_twice() -> None:
    # Behind (a, y) there are two rectangles that give five guests each, but (a, y) has only five to give.
    cells = _spare({"a": (0, 5, 400), "b": (60, 60, 400), "c": (60, 60, 400)})
    found = suppress(cells, LIMITS)
    assert _width(cells, SQUARE, found.hidden, ("a", "x")) >= 9


def test_a_hidden_total_does_not_need_its_parts_hidden_when_they_are_safe() -> None:
    numbers = {(row, column): 60 for row in "abcd" for column in "wxyz"} | {("a", "w"): 2, ("b", "x"): 3}
    found = suppress(square(numbers), LIMITS)
    assert (None, None) not in found.hidden
    assert len(found.hidden) < len(numbers) / 2


def test_the_answer_does_not_depend_on_the_order_of_the_cells() -> None:
    cells = _random_day(3, kinds=3, communes=5, groups=3, facilities=2, guests=6)
    expected = suppress(cells, LIMITS)
    assert suppress(cells[::-1], LIMITS) == expected
    assert suppress([*cells[7:], *cells[:7]], LIMITS) == expected


# --- earlier releases -------------------------------------------------------------------------------------------------


def test_what_an_earlier_release_hid_stays_hidden_even_when_it_is_zero_now() -> None:
    numbers = {(row, column): 60 for row in "ab" for column in "xy"}
    kept = {("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x")}
    found = suppress(square(numbers), LIMITS, keep=kept)
    assert found.hidden == kept
    assert found.own == frozenset()


def test_protection_does_not_rest_on_a_number_that_is_already_out() -> None:
    numbers = {(row, column): 60 for row in "abc" for column in "xyz"} | {("a", "x"): 4}
    cells = square(numbers)
    first = suppress(cells, LIMITS)
    [partner] = [node for node in first.hidden if node[0] == "a" and node != ("a", "x")]
    known = [frozenset({partner})]
    assert Leak(("a", "x"), "determined") in audit(cells, LIMITS, first.hidden, known)
    second = suppress(cells, LIMITS, known=known)
    assert second.exposed == frozenset()
    assert Leak(("a", "x"), "determined") not in audit(cells, LIMITS, second.hidden, known)


def test_a_month_minus_its_published_days_reveals_a_day_and_the_audit_says_so() -> None:
    numbers = {(row, column): 60 for row in "abc" for column in "xyz"} | {("a", "x"): 4}
    cells = square(numbers)
    found = suppress(cells, LIMITS)
    month_and_other_days_published = [frozenset({("a", "x")})]
    leaks = audit(cells, LIMITS, found.hidden, month_and_other_days_published)
    assert Leak(("a", "x"), "determined") in leaks
    again = suppress(cells, LIMITS, known=month_and_other_days_published)
    assert ("a", "x") in again.exposed  # nothing done to this day can help any more


def test_a_month_with_another_hidden_day_reveals_nothing() -> None:
    numbers = {(row, column): 60 for row in "abc" for column in "xyz"} | {("a", "x"): 4}
    cells = square(numbers)
    known: list[Equation] = [frozenset({("a", "x"), Elsewhere("2026-11-07", ("a", "x"))})]
    found = suppress(cells, LIMITS, known=known)
    assert found.exposed == frozenset()
    assert audit(cells, LIMITS, found.hidden, known) == ()


# --- measures ---------------------------------------------------------------------------------------------------------


def test_a_measure_of_an_unsafe_cell_is_not_pinned_by_partners_that_have_none_of_it() -> None:
    # Persons alone would be safe behind any rectangle; arrivals only behind one whose cells had arrivals.
    cells = [
        cell("a", "x", facilities=[2, 2], first=0, measures=(3,)),
        cell("a", "y", facilities=[12] * 3, first=10, measures=(0,)),
        cell("a", "z", facilities=[20] * 3, first=20, measures=(20,)),
        cell("b", "x", facilities=[12] * 3, first=30, measures=(0,)),
        cell("b", "y", facilities=[12] * 3, first=40, measures=(0,)),
        cell("b", "z", facilities=[12] * 3, first=50, measures=(0,)),
        cell("c", "x", facilities=[20] * 3, first=60, measures=(20,)),
        cell("c", "y", facilities=[20] * 3, first=70, measures=(20,)),
        cell("c", "z", facilities=[20] * 3, first=80, measures=(20,)),
    ]
    found = suppress(cells, LIMITS)
    assert _width(cells, SQUARE, found.hidden, ("a", "x"), measure=0) >= 3


# --- properties -------------------------------------------------------------------------------------------------------


@st.composite
def days(draw: st.DrawFn, biggest: int = 40) -> list[Cell]:
    """A small day: few kinds, communes and groups, mostly small numbers, now and then a dominating facility."""
    axes = [[f"{name}{i}" for i in range(draw(st.integers(1, most)))] for name, most in (("k", 3), ("c", 3), ("n", 3))]
    cells = []
    for index, at in enumerate(product(*axes)):
        contributions = draw(st.lists(st.integers(0, biggest), max_size=4))
        facilities = [persons for persons in contributions if persons]
        if facilities:
            arrivals = draw(st.integers(0, sum(facilities)))
            cells.append(cell(*at, facilities=facilities, first=index * 4, measures=(arrivals,)))
    return cells


@settings(max_examples=150, deadline=None)
@given(days())
def test_no_day_leaks_by_the_audit(cells: list[Cell]) -> None:
    found = suppress(cells, LIMITS)
    assert audit(cells, LIMITS, found.hidden) == ()
    assert found.exposed == frozenset()
    assert found.hidden == found.own


@settings(max_examples=100, deadline=None)
@given(days())
def test_no_hidden_node_is_a_rational_combination_of_the_published_ones(cells: list[Cell]) -> None:
    hidden = suppress(cells, LIMITS).hidden
    published, unknown = _system(cells, LATTICE, hidden)
    rank = _rank(published, unknown)
    for node, members in _targets(cells, LATTICE, hidden).items():
        assert _rank([*published, members], unknown) > rank, node


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.integers(0, 7), min_size=1), max_size=8), st.sets(st.integers(0, 7), min_size=1))
def test_row_space_membership_agrees_with_fractions(equations: list[set[int]], target: set[int]) -> None:
    unknown = list(range(8))
    counted: list[Row] = [Counter(equation) for equation in equations]
    inside = _rank([*counted, Counter(target)], unknown) == _rank(counted, unknown)
    assert bool(determined(equations, {("t",): target})) is inside


@settings(max_examples=100, deadline=None)
@given(days())
def test_every_unsafe_node_keeps_an_interval_as_wide_as_promised(cells: list[Cell]) -> None:
    hidden = suppress(cells, LIMITS).hidden
    for node, group in _groups(cells, LATTICE).items():
        if not LIMITS.allow(group):
            assert _width(cells, LATTICE, hidden, node) >= LIMITS.uncertainty(group.total()), node
            arrivals = sum(each.measures[0] for each in cells if project(each.at, shape_of(node)) == node)
            assert _width(cells, LATTICE, hidden, node, measure=0) >= min(9, arrivals), node


# --- speed ------------------------------------------------------------------------------------------------------------


def test_a_provinces_day_is_decided_in_two_seconds_of_processor_time() -> None:
    cells = _random_day(1, kinds=7, communes=20, groups=6, facilities=6, guests=15)
    begin = time.process_time()
    found = suppress(cells, LIMITS)
    assert audit(cells, LIMITS, found.hidden) == ()
    assert time.process_time() - begin < 2
    published = Counter(shape_of(node) for node in _groups(cells, LATTICE) if node not in found.hidden)
    assert published[(False, False, False)] == 1
    assert published[(True, False, False)] == 7
    assert published[(True, True, False)] > 20


# --- oracles ----------------------------------------------------------------------------------------------------------


def _random_day(seed: int, kinds: int, communes: int, groups: int, facilities: float, guests: float) -> list[Cell]:
    source = random.Random(seed)  # noqa: S311 - synthetic guests
    counts: dict[Node, Counter[int]] = {}
    facility = 0
    for kind, commune in product(range(kinds), range(communes)):
        for _ in range(int(source.expovariate(1 / facilities))):
            facility += 1
            for _ in range(int(source.expovariate(1 / guests))):
                group = min(int(source.expovariate(1.2)), groups - 1)
                counts.setdefault((f"k{kind}", f"c{commune:02}", f"n{group}"), Counter())[facility] += 1
    return [
        Cell(at, tuple(source.randint(0, count.total()) for _ in range(3)), tuple(sorted(count.items())))
        for at, count in counts.items()
    ]


def _groups(cells: Iterable[Cell], shapes: Iterable[tuple[bool, ...]]) -> dict[Node, Counter[int]]:
    groups: dict[Node, Counter[int]] = {}
    for each in cells:
        for shape in shapes:
            groups.setdefault(project(each.at, shape), Counter()).update(dict(each.facilities))
    return groups


Row = Mapping[Any, int]


def _system(
    cells: list[Cell], shapes: Collection[tuple[bool, ...]], hidden: Collection[Node]
) -> tuple[list[Row], list[Hashable]]:
    """Published sums over all cells of the grid, zeros included as published zeros where a table shows them."""
    present = set(_groups(cells, shapes))
    grid = list(product(*(sorted({str(each.at[axis]) for each in cells}) for axis in range(len(next(iter(shapes)))))))
    rows: dict[Node, Counter[Hashable]] = {}
    for at in grid:
        for shape in shapes:
            rows.setdefault(project(at, shape), Counter())[at] += 1
    published: list[Row] = [row for node, row in rows.items() if node not in hidden]
    # A zero of a published table is a sum of non-negative numbers: every cell under it is known to be zero.
    for node, row in rows.items():
        if node not in present and node not in hidden:
            published += [{at: 1} for at in row]
    return published, list(grid)


def _targets(cells: list[Cell], shapes: Collection[tuple[bool, ...]], hidden: Collection[Node]) -> dict[Node, Row]:
    grid = list(product(*(sorted({str(each.at[axis]) for each in cells}) for axis in range(len(next(iter(shapes)))))))
    return {node: Counter(at for at in grid if project(at, shape_of(node)) == node) for node in hidden}


def _rank(rows: Iterable[Row], unknown: Collection[Hashable]) -> int:
    matrix = [[Fraction(row.get(name, 0)) for name in unknown] for row in rows]
    rank = 0
    for column in range(len(unknown)):
        pivot = next((i for i in range(rank, len(matrix)) if matrix[i][column]), None)
        if pivot is None:
            continue
        matrix[rank], matrix[pivot] = matrix[pivot], matrix[rank]
        for i in range(rank + 1, len(matrix)):
            if matrix[i][column]:
                factor = matrix[i][column] / matrix[rank][column]
                matrix[i] = [a - factor * b for a, b in zip(matrix[i], matrix[rank], strict=True)]
        rank += 1
    return rank


def _width(
    cells: list[Cell],
    shapes: Collection[tuple[bool, ...]],
    hidden: Collection[Node],
    node: Node,
    measure: int | None = None,
) -> int:
    """How far apart the least and the greatest value of a node can be, over all tables that agree with the published.

    The published tables are a network in which every number is the flow of an arc and addition is conservation, so the
    answer is two maximum flows. The reader is given more than is published: in how many facilities the guests were.
    """
    flow: Counter[Node] = Counter()
    for each in cells:
        for shape in shapes:
            persons = sum(count for _facility, count in each.facilities)
            flow[project(each.at, shape)] += persons if measure is None else each.measures[measure]
    floor = {at: len(group) if measure is None else 0 for at, group in _groups(cells, shapes).items()}
    residual: dict[str, Counter[str]] = {}
    for at in floor:
        if at in hidden and at != node:
            tail, head = _arc(at)
            residual.setdefault(tail, Counter())[head] += 1 << 30
            residual.setdefault(head, Counter())[tail] += max(0, flow[at] - floor[at])
    tail, head = _arc(node)
    rise = _maximum_flow({at: Counter(arcs) for at, arcs in residual.items()}, head, tail)
    fall = _maximum_flow(residual, tail, head)
    return rise + min(fall, max(0, flow[node] - floor[node]))


def _arc(node: Node) -> tuple[str, str]:
    """Where a number flows from and to: in a square from row to column, in the lattice over commune, kind, group."""
    match node:
        case (None, None) | (None, None, None):
            return "sink", "source"
        case (row, None):
            return "source", f"row {row}"
        case (None, column):
            return f"column {column}", "sink"
        case (row, column):
            return f"row {row}", f"column {column}"
        case (None, commune, None):
            return "source", f"commune {commune}"
        case (None, None, group):
            return f"group {group}", "sink"
        case (kind, None, None):
            return f"into {kind}", f"out of {kind}"
        case (kind, commune, None):
            return f"commune {commune}", f"into {kind}"
        case (kind, None, group):
            return f"out of {kind}", f"group {group}"
    raise AssertionError(node)


def _maximum_flow(residual: dict[str, Counter[str]], source: str, sink: str) -> int:
    total = 0
    while True:
        came_from = {source: source}
        queue = [source]
        for at in queue:
            for to, room in residual.get(at, {}).items():
                if room and to not in came_from:
                    came_from[to] = at
                    queue.append(to)
        if sink not in came_from:
            return total
        path = [sink]
        while path[-1] != source:
            path.append(came_from[path[-1]])
        steps = list(zip(path[1:], path, strict=False))
        room = min(residual[tail][head] for tail, head in steps)
        for tail, head in steps:
            residual[tail][head] -= room
            residual.setdefault(head, Counter())[tail] += room
        total += room
