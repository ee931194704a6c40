"""Which numbers of an extract may be published: small groups, and everything from which they could be computed back.

Pure and deterministic. `suppress` chooses what to hold back; `audit` checks a choice by other means and is asked again
before anything is published. The method, and what it does not protect, stand in `docs/disclosure-control.md`.

The words: guests are counted along dimensions. A **node** is one number's place: a coordinate per dimension, None
meaning the total over it; a node without None is a **cell**. A **shape** says which dimensions are spelled out, so that
a set of shapes is a set of published tables linked by addition. Absent nodes are zero, and zero is not protected.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

Node = tuple[str | None, ...]
Shape = tuple[bool, ...]

_PRIME = 2**61 - 1
_UNBOUNDED = 1 << 62
_TOTAL_WEIGHT = 4
"""How much more a total is worth than a part of the same size, per dimension summed over."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A node of another period, for sums that reach over several."""

    period: str
    at: Node


Equation = frozenset[Node | Elsewhere]
"""Nodes whose sum somebody already knows."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is counted at one cell: `facilities` holds (facility, persons), each facility once, persons ≥ 1.

    `measures` are further counts of the same persons (arrivals, departures), in the caller's order, each ≥ 0.
    """

    at: Node
    measures: tuple[int, ...]
    facilities: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a group of guests is large enough to publish numbers about it."""

    persons: int = 10
    facilities: int = 3
    share_percent: int = 85

    def allow(self, group: Mapping[int, int]) -> bool:
        """Whether a group, persons by facility, is large, mixed and not one facility's own figure."""
        persons = sum(group.values())
        return (
            persons >= self.persons
            and len(group) >= self.facilities
            and max(group.values()) * 100 <= self.share_percent * persons
        )

    def uncertainty(self, persons: int) -> int:
        """How wide the interval left to a reader of the published numbers must be for an unsafe node."""
        return max(self.persons - 1, -(-persons * (100 - self.share_percent) // 100))


@dataclass(frozen=True, slots=True)
class Suppression:
    """The nodes to hold back.

    `own` protects these counts by itself. `hidden` is `own` and what the caller asked to keep hidden. `exposed` are
    nodes that earlier releases already tell, so that nothing done here can protect them.
    """

    own: frozenset[Node]
    hidden: frozenset[Node]
    exposed: frozenset[Node]


@dataclass(frozen=True, slots=True)
class Leak:
    """One finding of `audit`: a node that is `unsafe` yet published, `determined`, or leaves an unsafe `remainder`."""

    node: Node
    why: str


def suppress(
    cells: Iterable[Cell],
    shapes: Collection[Shape],
    limits: Limits,
    keep: Collection[Node] = (),
    known: Iterable[Equation] = (),
) -> Suppression:
    """Choose the nodes to hold back so that no unsafe group can be seen, computed or narrowed down.

    `shapes` holds at most two tables that no other refines (more could contradict each other's freedom: ValueError).
    `keep` are nodes to hold back whatever their numbers are, because an earlier release hid them. `known` are sums that
    earlier releases published: no protection may rest on them being secret. Three things hold of `own` alone:

    1. every unsafe node is hidden, and so are patterns of nodes along which persons can be moved without changing
       anything published, together by at least `limits.uncertainty`; each measure by itself, or `limits.persons` - 1;
    2. hence no hidden node is a linear combination of the published ones;
    3. what remains of a published node after subtracting its published parts is empty or itself a safe group.
    """
    table, kept = _tabulate(cells, shapes), frozenset(keep)
    price = {node: 0 if node in kept else _price(table, node) for node in table.groups}
    search = _Search(table, limits, price, tuple(_binding(known)), set(), set())
    unsafe = [node for node, group in table.groups.items() if not limits.allow(group)]
    search.hide(unsafe)
    # Totals before parts: a hidden total makes hiding its parts cheaper. Large before small within a table.
    for node in sorted(unsafe, key=lambda each: (-each.count(None), -table.persons(each), _order(each))):
        _protect(search, node, _needs(table, limits, node))
    while _complete_remainders(search):
        pass
    return Suppression(frozenset(search.own), kept | search.own, frozenset(search.exposed))


def audit(
    cells: Iterable[Cell],
    shapes: Collection[Shape],
    limits: Limits,
    hidden: Collection[Node],
    known: Iterable[Equation] = (),
) -> tuple[Leak, ...]:
    """Look for what a reader of the published nodes can find out; empty if nothing.

    Exact for linear inference: a hidden node is `determined` if and only if it lies in the row space of the published
    ones and the `known` sums.
    """
    table, held = _tabulate(cells, shapes), frozenset(hidden)
    unsafe = (node for node, group in table.groups.items() if node not in held and not limits.allow(group))
    leaks = [Leak(node, "unsafe") for node in unsafe]
    leaks += [Leak(node, "determined") for node in _determined_nodes(table, held, known)]
    leaks += [Leak(node, "remainder") for node, _fine, _group in _unsafe_remainders(table, held, limits)]
    return tuple(sorted(leaks, key=lambda leak: (leak.why, _order(leak.node))))


def determined(
    equations: Iterable[Collection[Hashable]], targets: Mapping[Node, Collection[Hashable]]
) -> frozenset[Node]:
    """Return the targets whose sum follows from the equations' sums by linear combination; members may repeat.

    Works on one generic vector of the null space modulo the prime 2^61 - 1: its sum over a target is zero if and only
    if the target is in the row space (an accident has probability 2^-61 and errs towards `determined`).
    """
    null = _null_vector(equations)
    found = set()
    for target, members in targets.items():
        # A member of no equation is free; its value is as generic as any.
        if sum(null.get(member, _generic(member)) for member in members) % _PRIME == 0:
            found.add(target)
    return frozenset(found)


def project(cell: Node, shape: Shape) -> Node:
    """The node of `shape` that counts `cell`."""
    return tuple(coordinate if spelled else None for coordinate, spelled in zip(cell, shape, strict=True))


def shape_of(node: Node) -> Shape:
    """Which dimensions a node spells out."""
    return tuple(coordinate is not None for coordinate in node)


# --- counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Table:
    """Every node that is not zero, of every published shape.

    Of the tables in `finest`, which no other refines, `spare` says by how much persons and each measure of a node can
    fall: not below the facilities with guests there, which somebody may know.
    """

    shapes: tuple[Shape, ...]
    finest: tuple[Shape, ...]
    axes: tuple[tuple[str, ...], ...]
    groups: dict[Node, Counter[int]]
    measures: dict[Node, tuple[int, ...]]
    spare: dict[Node, tuple[int, ...]]

    def persons(self, node: Node) -> int:
        return self.groups[node].total()


def _tabulate(cells: Iterable[Cell], shapes: Collection[Shape]) -> _Table:
    finest = tuple(shape for shape in sorted(shapes) if not any(_refines(other, shape) for other in shapes))
    if len(finest) > 2:
        raise ValueError("at most two of the tables may be unrefined by another")
    groups: dict[Node, Counter[int]] = defaultdict(Counter)
    measures: dict[Node, tuple[int, ...]] = {}
    seen: set[Node] = set()
    for cell in cells:
        if cell.at in seen or None in cell.at or not cell.facilities:
            raise ValueError("cells are distinct, spell out every dimension and hold at least one facility")
        seen.add(cell.at)
        for shape in shapes:
            node = project(cell.at, shape)
            groups[node].update(dict(cell.facilities))
            before = measures.get(node, (0,) * len(cell.measures))
            measures[node] = tuple(a + b for a, b in zip(before, cell.measures, strict=True))
    axes = tuple(tuple(sorted({str(at[axis]) for at in seen})) for axis in range(len(finest[0])))
    spare = {
        node: (group.total() - len(group), *measures[node])
        for node, group in groups.items()
        if shape_of(node) in finest
    }
    return _Table(tuple(sorted(shapes)), finest, axes, dict(groups), measures, spare)


def _refines(fine: Shape, coarse: Shape) -> bool:
    """Whether `fine` spells out all that `coarse` does, and more."""
    return fine != coarse and all(f or not c for f, c in zip(fine, coarse, strict=True))


def _price(table: _Table, node: Node) -> int:
    """What hiding a node loses: its persons, weighted because more readers use a total."""
    return int(table.persons(node) * _TOTAL_WEIGHT ** node.count(None))


def _order(node: Node) -> tuple[str, ...]:
    """A total order of nodes, totals first."""
    return tuple(coordinate or "" for coordinate in node)


# --- moves: patterns along which persons can be shifted without a published number changing ---------------------------


@dataclass(slots=True)
class _Search:
    """The state of one `suppress`. `price` is what hiding a node loses, nothing once it is hidden."""

    table: _Table
    limits: Limits
    price: dict[Node, int]
    known: tuple[Equation, ...]
    own: set[Node]
    exposed: set[Node]

    def hide(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self.own.add(node)
            self.price[node] = 0

    def price_of(self, move: _Move) -> int:
        return sum(self.price[node] for node in move.nodes)


Signed = tuple[tuple[str | None, int], ...]
"""On one axis: a coordinate that gains, and perhaps one that loses as much. A lone one moves the total too."""

_TOTAL: Signed = ((None, 1),)


@dataclass(frozen=True, slots=True)
class _Move:
    """A pattern through a node: the published nodes it changes, and how far it goes for persons and each measure.

    `down` is how far the node can fall along it, `up` how far it can rise; `losers` are the nodes that fall then.
    """

    nodes: tuple[Node, ...]
    down: tuple[int, ...]
    up: tuple[int, ...]
    losers: tuple[Node, ...]


def _needs(table: _Table, limits: Limits, node: Node) -> tuple[int, ...]:
    """How uncertain each count of an unsafe node must stay: persons first, then the measures."""
    measures = (min(limits.persons - 1, value) for value in table.measures[node])
    return (limits.uncertainty(table.persons(node)), *measures)


def _protect(search: _Search, node: Node, needs: Sequence[int]) -> None:
    """Hide moves, cheapest for their width first, until each count of `node` is as uncertain as needed.

    The node can fall as far as the best single move goes, and rise by all of them together, as long as none of the
    nodes that fall then falls too low.
    """
    moves = list(_moves(search, node))
    prices = [search.price_of(move) for move in moves]
    for count, need in enumerate(needs):
        down, up = 0, 0
        fallen: Counter[Node] = Counter()
        while down + up < need:
            best: tuple[float, int, int, int] | None = None
            for number, move in enumerate(moves):
                deeper = max(0, move.down[count] - down)
                rise = _rise(search.table, move, count, fallen)
                gain = min(deeper + rise, need - down - up)
                if gain > 0 and (best is None or prices[number] / gain < best[0]):
                    best = (prices[number] / gain, number, deeper, min(gain, rise))
            if best is None:
                search.exposed.add(node)
                break
            _rate, number, deeper, rise = best
            down, up = down + deeper, up + rise
            fallen.update(dict.fromkeys(moves[number].losers, rise))
            if prices[number]:
                search.hide(moves[number].nodes)
                prices = [search.price_of(move) for move in moves]


def _rise(table: _Table, move: _Move, count: int, fallen: Mapping[Node, int]) -> int:
    """How far a move can still raise its node once others have lowered the nodes in `fallen`."""
    if fallen and move.losers:
        return min(table.spare[loser][count] - fallen.get(loser, 0) for loser in move.losers)
    return move.up[count]


def _moves(search: _Search, node: Node) -> Iterator[_Move]:
    """Every move through a node that keeps to nodes with guests and changes no known sum, in a fixed order."""
    table = search.table
    for box in _boxes(table, node):
        parts = _changed(table.finest, box)
        if not table.spare.keys() >= parts.keys():
            continue
        losers = tuple(part for part, sign in parts.items() if sign < 0)
        down = tuple(map(min, zip(*(table.spare[part] for part, sign in parts.items() if sign > 0), strict=True)))
        up = tuple(map(min, zip(*(table.spare[part] for part in losers), strict=True))) or (_UNBOUNDED,) * len(down)
        if any(down) or any(up):
            changed = _changed(table.shapes, box)
            if not any(_changes(equation, changed) for equation in search.known):
                yield _Move(tuple(changed), down, up, losers)


def _changes(equation: Equation, changed: Mapping[Node, int]) -> int:
    return sum(changed.get(node, 0) for node in equation if not isinstance(node, Elsewhere))


def _boxes(table: _Table, node: Node) -> Iterator[tuple[Signed, ...]]:
    """Every box through a node: one signed pair or lone coordinate per axis.

    Where the node has a coordinate, that one gains alone or against another. Where it is a total, some coordinate
    carries the gain; which one is the same to every published number unless a table sees both it and the rest.
    """
    options: list[tuple[Signed, ...]] = []
    for coordinate, axis in zip(node, table.axes, strict=True):
        if coordinate is None:
            options.append(tuple(((carrier, 1),) for carrier in axis))
        else:
            pairs = (((coordinate, 1), (other, -1)) for other in axis if other != coordinate)
            options.append((((coordinate, 1),), *pairs))
    spelled = [axis for axis, coordinate in enumerate(node) if coordinate is not None]
    totals = [axis for axis, coordinate in enumerate(node) if coordinate is None]
    for signed in product(*(options[axis] for axis in spelled)):
        chosen = dict(zip(spelled, signed, strict=True))
        paired = {axis for axis, each in chosen.items() if len(each) == 2}
        seen = {axis for shape in table.finest if all(shape[each] for each in paired) for axis in totals if shape[axis]}
        for carriers in product(*(options[axis] if axis in seen else options[axis][:1] for axis in totals)):
            chosen.update(zip(totals, carriers, strict=True))
            yield tuple(chosen[axis] for axis in range(len(node)))


def _changed(shapes: Iterable[Shape], box: tuple[Signed, ...]) -> dict[Node, int]:
    """The published nodes a box changes, with their sign: its corners, and totals where it does not cancel out."""
    changed: dict[Node, int] = {}
    for shape in shapes:
        if all(spelled or len(signed) == 1 for spelled, signed in zip(shape, box, strict=True)):
            axes = [signed if spelled else _TOTAL for spelled, signed in zip(shape, box, strict=True)]
            for corner in product(*axes):
                changed[tuple(each[0] for each in corner)] = prod(each[1] for each in corner)
    return changed


def _binding(known: Iterable[Equation]) -> Iterator[Equation]:
    """The sums that bind these nodes: a node of another period that no other sum knows takes up any move made here."""
    equations = list(known)
    uses = Counter(node for equation in equations for node in equation)
    for equation in equations:
        if not any(isinstance(node, Elsewhere) and uses[node] == 1 for node in equation):
            yield equation


# --- remainders: a published total minus its published parts ----------------------------------------------------------


def _unsafe_remainders(
    table: _Table, hidden: Collection[Node], limits: Limits
) -> list[tuple[Node, Shape, Counter[int]]]:
    """Published nodes whose hidden parts, in one finer table, together make an unsafe group."""
    found = []
    parts = [node for node in sorted(hidden, key=_order) if node in table.groups]
    for coarse, fine in product(table.shapes, repeat=2):
        if _refines(fine, coarse):
            remainders: dict[Node, Counter[int]] = defaultdict(Counter)
            for part in parts:
                if shape_of(part) == fine and project(part, coarse) not in hidden:
                    remainders[project(part, coarse)].update(table.groups[part])
            found += [(whole, fine, group) for whole, group in remainders.items() if not limits.allow(group)]
    return found


def _complete_remainders(search: _Search) -> bool:
    """Hide further parts until what every published node leaves over is safe; whether anything had to be hidden."""
    table, limits = search.table, search.limits
    found = _unsafe_remainders(table, search.own, limits)
    for whole, fine, remainder in found:
        group = remainder
        parts = [
            node
            for node in table.groups
            if node not in search.own and shape_of(node) == fine and project(node, shape_of(whole)) == whole
        ]
        while parts and not limits.allow(group):
            part = _next_part(search, parts, group)
            parts.remove(part)
            group = group + table.groups[part]
            search.hide([part])
            _protect(search, part, (1,))
    return bool(found)


def _next_part(search: _Search, parts: Collection[Node], group: Counter[int]) -> Node:
    """The cheapest part that makes the group safe; if no single one does, the one with most facilities."""
    enough = [part for part in parts if search.limits.allow(group + search.table.groups[part])]
    if enough:
        return min(enough, key=lambda part: (search.price[part], _order(part)))
    return max(parts, key=lambda part: (len(search.table.groups[part]), _order(part)))


# --- linear algebra ---------------------------------------------------------------------------------------------------


def _determined_nodes(table: _Table, hidden: Collection[Node], known: Iterable[Equation]) -> frozenset[Node]:
    """The hidden nodes in the row space of the published ones.

    The unknowns are the cells that the published tables allow: each finest node of theirs has guests or is hidden.
    """
    possible = {node for node in (*table.spare, *hidden) if shape_of(node) in table.finest}
    axes = [sorted({str(node[i]) for node in possible if node[i] is not None}) for i in range(len(table.axes))]
    members: dict[Node, list[Node]] = defaultdict(list)
    for cell in product(*(axis or ("",) for axis in axes)):
        if all(project(cell, shape) in possible for shape in table.finest):
            for shape in table.shapes:
                members[project(cell, shape)].append(cell)
    equations: list[list[Hashable]] = [list(cells) for node, cells in members.items() if node not in hidden]
    for equation in known:
        unknown: list[Hashable] = []
        for node in equation:
            unknown += [node] if isinstance(node, Elsewhere) else members.get(node, [])
        equations.append(unknown)
    return determined(equations, {node: members[node] for node in hidden if node in table.groups})


def _generic(name: Hashable) -> int:
    """A value for a free unknown: fixed, and without pattern."""
    return int.from_bytes(hashlib.sha256(repr(name).encode()).digest()) % _PRIME


def _null_vector(equations: Iterable[Collection[Hashable]]) -> dict[Hashable, int]:
    """A vector on which every equation's sum is zero modulo the prime, generic otherwise.

    Sparse Gaussian elimination, short rows first. A row holds no pivot older than its own, so that substitution from
    the youngest to the oldest finds each pivot's value from known ones.
    """
    ordered = sorted((Counter(each) for each in equations), key=len)
    uses = Counter(member for each in ordered for member in each)
    pivots: dict[Hashable, int] = {}
    rows: list[tuple[Hashable, dict[Hashable, int]]] = []
    for row in ordered:
        _eliminate(row, rows, pivots)
        if row:
            pivot = min(row, key=lambda member: (uses[member], repr(member)))
            scale = -pow(row.pop(pivot), -1, _PRIME)
            pivots[pivot] = len(rows)
            rows.append((pivot, {member: value * scale % _PRIME for member, value in row.items()}))
    null = {member: _generic(member) for member in uses if member not in pivots}
    for pivot, substitute in reversed(rows):
        null[pivot] = sum(value * null[member] for member, value in substitute.items()) % _PRIME
    return null


def _eliminate(
    row: dict[Hashable, int], rows: Sequence[tuple[Hashable, dict[Hashable, int]]], pivots: Mapping[Hashable, int]
) -> None:
    """Substitute every pivot in `row`, oldest first, in place."""
    due = [pivots[member] for member in row if member in pivots]
    heapq.heapify(due)
    while due:
        pivot, substitute = rows[heapq.heappop(due)]
        factor = row.pop(pivot, 0)
        if not factor:
            continue
        for member, value in substitute.items():
            if member not in row and member in pivots:
                heapq.heappush(due, pivots[member])
            total = (row.get(member, 0) + factor * value) % _PRIME
            if total:
                row[member] = total
            else:
                row.pop(member, None)
