"""Which numbers of an extract may be published: small groups, and everything from which they could be computed back.

Pure and deterministic. `suppress` chooses what to hold back; `audit` checks a choice by other means and is asked again
before anything is published. The method, and what it does not protect, stand in `docs/disclosure-control.md`.

The words: guests are counted along two or three dimensions. A **node** is one number's place: a coordinate per
dimension, None meaning the total over it; a node without None is a **cell**. A **shape** says which dimensions are
spelled out. Published are the first dimension crossed with each of the others, each dimension alone, and the grand
total (`shapes`). Absent nodes are zero, and zero is not protected.

Such tables are a network: every number is the flow of an arc, addition is conservation, and what a reader cannot tell
is exactly what can be sent around a cycle of hidden arcs. That is how `suppress` finds partners for a small number.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

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
    limits: Limits,
    keep: Collection[Node] = (),
    known: Iterable[Equation] = (),
) -> Suppression:
    """Choose the nodes to hold back so that no unsafe group can be seen, computed or narrowed down.

    `keep` are nodes to hold back whatever their numbers are, because an earlier release hid them. `known` are sums that
    earlier releases published: no protection may rest on them being secret. Three things hold of `own` alone:

    1. every unsafe node is hidden, and so are cycles of nodes around which persons can be moved without changing
       anything published, together by at least `limits.uncertainty`; each measure by itself, or `limits.persons` - 1;
    2. hence no hidden node is a linear combination of the published ones;
    3. what remains of a published node after subtracting its published parts is empty or itself a safe group.
    """
    table, kept = _tabulate(cells), frozenset(keep)
    price = {node: 0 if node in kept else _price(table, node) for node in table.groups}
    bound = _bound(known)
    search = _Search(table, limits, price, _neighbours(table, bound), set(), set())
    unsafe = [node for node, group in table.groups.items() if not limits.allow(group)]
    search.hide(unsafe)
    search.exposed.update(bound.intersection(unsafe))
    # Totals before parts: a hidden total makes hiding its parts cheaper. Large before small within a table.
    protectable = (node for node in unsafe if node not in bound)
    for node in sorted(protectable, key=lambda each: (-each.count(None), -table.persons(each), _order(each))):
        _protect(search, node, _needs(table, limits, node))
    while _complete_remainders(search):
        pass
    return Suppression(frozenset(search.own), kept | search.own, frozenset(search.exposed))


def audit(
    cells: Iterable[Cell],
    limits: Limits,
    hidden: Collection[Node],
    known: Iterable[Equation] = (),
) -> tuple[Leak, ...]:
    """Look for what a reader of the published nodes can find out; empty if nothing.

    Exact for linear inference: a hidden node is `determined` if and only if it lies in the row space of the published
    ones and the `known` sums.
    """
    table, held = _tabulate(cells), frozenset(hidden)
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


def shapes(dimensions: int) -> tuple[Shape, ...]:
    """The published tables of two or three dimensions, finer ones first. Raises ValueError for another number."""
    if dimensions == 2:
        return ((True, True), (True, False), (False, True), (False, False))
    if dimensions == 3:
        pairs = ((True, True, False), (True, False, True))
        return (*pairs, (True, False, False), (False, True, False), (False, False, True), (False, False, False))
    raise ValueError("guests are counted along two or three dimensions")


def project(cell: Node, shape: Shape) -> Node:
    """The node of `shape` that counts `cell`."""
    return tuple(coordinate if spelled else None for coordinate, spelled in zip(cell, shape, strict=True))


def shape_of(node: Node) -> Shape:
    """Which dimensions a node spells out."""
    return tuple(coordinate is not None for coordinate in node)


# --- counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class _Table:
    """Every node that is not zero. `spare` says by how much persons and each measure of a node can fall: not below
    the facilities with guests there, which somebody may know."""

    shapes: tuple[Shape, ...]
    finest: tuple[Shape, ...]
    groups: dict[Node, Counter[int]]
    measures: dict[Node, tuple[int, ...]]
    spare: dict[Node, tuple[int, ...]]

    def persons(self, node: Node) -> int:
        return self.groups[node].total()


def _tabulate(cells: Iterable[Cell]) -> _Table:
    groups: dict[Node, Counter[int]] = defaultdict(Counter)
    measures: dict[Node, tuple[int, ...]] = {}
    seen: set[Node] = set()
    published = shapes(3)
    for cell in cells:
        published = shapes(len(cell.at))
        if cell.at in seen or None in cell.at or not cell.facilities:
            raise ValueError("cells are distinct, spell out every dimension and hold at least one facility")
        seen.add(cell.at)
        for shape in published:
            node = project(cell.at, shape)
            groups[node].update(dict(cell.facilities))
            before = measures.get(node, (0,) * len(cell.measures))
            measures[node] = tuple(a + b for a, b in zip(before, cell.measures, strict=True))
    finest = tuple(shape for shape in published if not any(_refines(other, shape) for other in published))
    spare = {node: (group.total() - len(group), *measures[node]) for node, group in groups.items()}
    return _Table(published, finest, dict(groups), measures, spare)


def _refines(fine: Shape, coarse: Shape) -> bool:
    """Whether `fine` spells out all that `coarse` does, and more."""
    return fine != coarse and all(f or not c for f, c in zip(fine, coarse, strict=True))


def _price(table: _Table, node: Node) -> int:
    """What hiding a node loses: its persons, weighted because more readers use a total."""
    return int(table.persons(node) * _TOTAL_WEIGHT ** node.count(None))


def _order(node: Node) -> tuple[str, ...]:
    """A total order of nodes, totals first."""
    return tuple(coordinate or "" for coordinate in node)


# --- cycles: around which persons can be moved without a published number changing ------------------------------------

_Vertex = tuple[str, str | None]
_SOURCE: _Vertex = ("source", None)
_SINK: _Vertex = ("sink", None)


def _arc(node: Node) -> tuple[_Vertex, _Vertex]:
    """From where to where a node's number flows: source, second dimension, first, third, sink; the total flows back."""
    first, second, third = node if len(node) == 3 else (*node, None)
    if first is None:
        if second is None:
            return (_SINK, _SOURCE) if third is None else (("third", third), _SINK)
        return _SOURCE, ("second", second)
    if second is not None:
        return ("second", second), ("into", first)
    if third is not None:
        return ("out of", first), ("third", third)
    return ("into", first), (("out of", first) if len(node) == 3 else _SINK)


_Step = tuple[_Vertex, Node, int]
"""Along an arc (+1: its number rises) or against it (-1) to a vertex."""


def _neighbours(table: _Table, bound: Collection[Node]) -> dict[_Vertex, list[_Step]]:
    """The steps from each vertex, over every node whose number is not known already."""
    steps: dict[_Vertex, list[_Step]] = defaultdict(list)
    for node in sorted(table.groups, key=_order):
        if node not in bound:
            tail, head = _arc(node)
            steps[tail].append((head, node, 1))
            steps[head].append((tail, node, -1))
    return steps


def _bound(known: Iterable[Equation]) -> frozenset[Node]:
    """The nodes of sums that are known, to be left as they are; stricter than needed where a sum has several.

    A sum with a node of another period that no other sum knows binds nothing: that node takes up any move made here.
    """
    equations = list(known)
    uses = Counter(node for equation in equations for node in equation)
    return frozenset(
        node
        for equation in equations
        if not any(isinstance(other, Elsewhere) and uses[other] == 1 for other in equation)
        for node in equation
        if not isinstance(node, Elsewhere)
    )


@dataclass(slots=True)
class _Search:
    """The state of one `suppress`. `price` is what hiding a node loses, nothing once it is hidden."""

    table: _Table
    limits: Limits
    price: dict[Node, int]
    steps: dict[_Vertex, list[_Step]]
    own: set[Node]
    exposed: set[Node]

    def hide(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self.own.add(node)
            self.price[node] = 0


def _needs(table: _Table, limits: Limits, node: Node) -> tuple[int, ...]:
    """How uncertain each count of an unsafe node must stay: persons first, then the measures."""
    measures = (min(limits.persons - 1, value) for value in table.measures[node])
    return (limits.uncertainty(table.persons(node)), *measures)


def _protect(search: _Search, node: Node, needs: Sequence[int]) -> None:
    """Hide cycles through `node`, cheapest for their width first, until each count of it is as uncertain as needed."""
    tail, head = _arc(node)
    for count, need in enumerate(needs):
        # What is moved while the node rises, and while it falls: two separate ways of not knowing.
        moved: dict[int, Counter[Node]] = {1: Counter(), -1: Counter()}
        width = 0
        while width < need:
            left = need - width
            lowering = min(left, search.table.spare[node][count] + moved[-1][node])
            ways = [
                (direction, amount, path)
                for direction, most in ((1, left), (-1, lowering))
                for amount in sorted({most, most // 2, min(most, 1)} - {0})
                if (path := _cheapest(search, node, (head, tail)[::direction], count, amount, moved[direction]))
            ]
            if not ways:
                search.exposed.add(node)
                break
            direction, amount, path = min(ways, key=lambda way: _rate(search, way[1], way[2]))
            for each, sign in path:
                moved[direction][each] += sign * amount
            moved[direction][node] += direction * amount
            search.hide([node, *(each for each, _sign in path)])
            width += amount


_Path = tuple[tuple[Node, int], ...]


def _rate(search: _Search, amount: int, path: _Path) -> tuple[float, int]:
    """What a path costs for what it moves; of equals the one that moves most."""
    return sum(search.price[node] for node, _sign in path) / amount, -amount


def _cheapest(
    search: _Search, through: Node, ends: tuple[_Vertex, ...], count: int, amount: int, moved: Mapping[Node, int]
) -> _Path | None:
    """The cheapest path from end to end, not over `through`, around which `amount` can be sent besides what is moved.

    Dijkstra's algorithm; a node can be lowered by what it has to spare and by what it was raised before.
    """
    start, goal = ends
    best: dict[_Vertex, int] = {start: 0}
    came: dict[_Vertex, tuple[_Vertex, Node, int]] = {}
    queue: list[tuple[int, int, _Vertex]] = [(0, 0, start)]
    pushed, done = 0, set[_Vertex]()
    while queue:
        price, _tie, vertex = heapq.heappop(queue)
        if vertex == goal:
            return _walk_back(came, start, goal)
        if vertex in done:
            continue
        done.add(vertex)
        for other, node, sign in search.steps[vertex]:
            reached = price + search.price[node]
            if (
                node != through
                and (sign > 0 or search.table.spare[node][count] + moved.get(node, 0) >= amount)
                and reached < best.get(other, _UNBOUNDED)
            ):
                pushed += 1
                best[other] = reached
                came[other] = (vertex, node, sign)
                heapq.heappush(queue, (reached, pushed, other))
    return None


def _walk_back(came: Mapping[_Vertex, tuple[_Vertex, Node, int]], start: _Vertex, goal: _Vertex) -> _Path:
    path = []
    while goal != start:
        goal, node, sign = came[goal]
        path.append((node, sign))
    return tuple(path)


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
    possible = {node for node in (*table.groups, *hidden) if shape_of(node) in table.finest}
    if not possible:
        return frozenset()
    axes = [sorted({str(each) for each in axis if each is not None}) for axis in zip(*possible, strict=True)]
    members: dict[Node, list[Node]] = defaultdict(list)
    for cell in product(*axes):
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
