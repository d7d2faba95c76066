"""Finding matches among the entries that share a key, and following them to the rows that stay.

Rows and guards are numbered in their order: guards below 0, rows from 0.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines.ingestion.duplicates.similarity import ASPECT_TOLERANCE, SAME, SKETCH_LIMIT, similarities

EXACT, NEAR = 0, 1
EDGE = np.dtype([("id", "<i8"), ("match", "<i8"), ("similarity", "<f4"), ("kind", "u1")])  # match < id
PAIR = np.dtype([("later", "<i8"), ("earlier", "<i8"), ("distance", "<i8")])  # differing bits of the sketches
# A key that more rows share (the same sign on ten thousand photographs) is popular: not all against all, but each row against
# the first of them and against its neighbours in the order of sketches.
POPULAR = 256
FIRST, NEIGHBOURS = 32, 8
TRIES = 8  # guards, and rows, that a row is compared with: those with the nearest sketches
PAIRS_IN_MEMORY = 2**21  # 50 MB

LookUp = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def same_bytes(entries: np.ndarray, among: bool) -> np.ndarray:
    """Matches, as EDGE, of each row with the first row or guard of the same content."""
    entries = entries[np.lexsort((entries["id"], entries["more"], entries["key"]))]
    new = np.ones(len(entries), bool)
    new[1:] = (entries["key"][1:] != entries["key"][:-1]) | (entries["more"][1:] != entries["more"][:-1])
    first = entries["id"][np.flatnonzero(new)[np.cumsum(new) - 1]] if len(entries) else entries["id"]
    wanted = ~new & (entries["id"] >= 0) & (among | (first < 0))
    edges = np.zeros(wanted.sum(), EDGE)
    edges["id"], edges["match"], edges["similarity"], edges["kind"] = entries["id"][wanted], first[wanted], 1, EXACT
    return edges


def candidates(entries: np.ndarray, among: bool) -> np.ndarray:
    """Pairs, as PAIR, of rows that share a key and that nothing cheap tells apart. Not `among`: of rows with guards alone."""
    entries = entries[np.lexsort((entries["id"], entries["sketch"], entries["key"]))]
    new = np.ones(len(entries), bool)
    new[1:] = entries["key"][1:] != entries["key"][:-1]
    starts = np.flatnonzero(new)
    sizes = np.diff(np.r_[starts, len(entries)])
    place = np.arange(len(entries)) - np.repeat(starts, sizes)
    reach = np.minimum(place, np.repeat(np.where(sizes > POPULAR, NEIGHBOURS, POPULAR), sizes))
    found, size = [np.zeros(0, PAIR)], 0
    for one, other in _positions(entries["id"], reach, starts[sizes > POPULAR], sizes[sizes > POPULAR]):
        found.append(_likely(entries, one, other, among))
        size += len(found[-1])
        if size > PAIRS_IN_MEMORY:
            found = [nearest(np.concatenate(found))]
            size = len(found[0])
    return nearest(np.concatenate(found))


def _positions(ids: np.ndarray, reach: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of the entries to compare: each with `reach` entries before it, and the popular ones with their first."""
    here, back = np.flatnonzero(reach >= 1), 1
    while len(here):
        yield here, here - back
        back += 1
        here = here[reach[here] >= back]
    for start, size in zip(starts, sizes, strict=True):
        group = start + np.arange(size)
        for first in group[np.argsort(ids[group], kind="stable")[:FIRST]]:
            yield group, np.full(size, first)


def _likely(entries: np.ndarray, one: np.ndarray, other: np.ndarray, among: bool) -> np.ndarray:
    """The pairs of the entries at positions (one, other) that are worth a comparison."""
    distance = np.bitwise_count(entries["sketch"][one] ^ entries["sketch"][other])
    near = distance <= SKETCH_LIMIT
    one, other, distance = one[near], other[near], distance[near]
    first, second = entries["id"][one], entries["id"][other]
    later, earlier = np.maximum(first, second), np.minimum(first, second)
    label, other_label = entries["label"][one], entries["label"][other]
    good = (later >= 0) & (later != earlier) & (among | (earlier < 0))
    # A benchmark image is one whatever somebody read in it: labels have slips, and a copy left in costs more than one lost.
    good &= (label == other_label) | (label == 0) | (other_label == 0) | (earlier < 0)
    good &= np.abs(entries["aspect"][one] - entries["aspect"][other]) <= ASPECT_TOLERANCE
    pairs = np.empty(good.sum(), PAIR)
    pairs["later"], pairs["earlier"], pairs["distance"] = later[good], earlier[good], distance[good]
    return pairs


def nearest(pairs: np.ndarray) -> np.ndarray:
    """Each row's TRIES most likely guards and TRIES most likely rows, each pair once. Of parts or of the whole: the same."""
    pairs = pairs[np.lexsort((pairs["earlier"], pairs["distance"], pairs["earlier"] >= 0, pairs["later"]))]
    if not len(pairs):
        return pairs
    pairs = pairs[np.r_[True, pairs[1:] != pairs[:-1]]]
    guard = pairs["earlier"] < 0
    new = np.r_[True, (pairs["later"][1:] != pairs["later"][:-1]) | (guard[1:] != guard[:-1])]
    starts = np.flatnonzero(new)
    return pairs[np.arange(len(pairs)) - starts[np.cumsum(new) - 1] < TRIES]


def verify(pairs: np.ndarray, look_up: LookUp) -> np.ndarray:
    """The matches, as EDGE, among candidates.

    Each row's are tried by distance, then age, until one holds; guards and rows apart, so that neither hides the other.
    """
    pairs = nearest(pairs)
    edges = [np.zeros(0, EDGE)]
    for waiting in (pairs[pairs["earlier"] < 0], pairs[pairs["earlier"] >= 0]):
        while len(waiting):
            turn = np.r_[True, waiting["later"][1:] != waiting["later"][:-1]]
            rows, matches = waiting["later"][turn], waiting["earlier"][turn]
            similarity = similarities(*look_up(matches), *look_up(rows))
            same = similarity >= SAME
            edge = np.zeros(same.sum(), EDGE)
            edge["id"], edge["match"], edge["similarity"], edge["kind"] = rows[same], matches[same], similarity[same], NEAR
            edges.append(edge)
            waiting = waiting[~turn & ~np.isin(waiting["later"], rows[same])]
    return np.concatenate(edges)


def earliest(edges: np.ndarray) -> np.ndarray:
    """One edge for each row, in the order of rows: benchmark images before rows, the same bytes before likeness, then the earliest."""
    rank = np.where(edges["match"] < 0, 0, 2) + edges["kind"]
    likeness = np.where(rank == 1, -edges["similarity"], 0)
    edges = edges[np.lexsort((edges["match"], likeness, rank, edges["id"]))]
    return edges[np.r_[True, edges["id"][1:] != edges["id"][:-1]]] if len(edges) else edges


def components(ones: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a graph with these edges, its points in their order, and the smallest point that is joined with each."""
    points, place = np.unique(np.concatenate([ones, others]), return_inverse=True)
    if not len(points):
        return points, points
    one, other = place.reshape(2, -1)
    graph = coo_array((np.ones(len(one), np.uint8), (one, other)), shape=(len(points), len(points)))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)  # points are in order, so the first of a component is its smallest
    return points, points[first][component]


def to_kept(edges: np.ndarray) -> np.ndarray:
    """The edges of `earliest`, each leading to a row that stays, or to a guard, by way of the rows between.

    A chain of which any step is a likeness is a likeness.
    """
    edges = edges.copy()
    while len(edges):
        at = np.searchsorted(edges["id"], edges["match"])
        at = np.minimum(at, len(edges) - 1)
        dropped = edges["id"][at] == edges["match"]
        if not dropped.any():
            break
        further = edges[at[dropped]]
        edges["match"][dropped] = further["match"]
        edges["kind"][dropped] = np.maximum(edges["kind"][dropped], further["kind"])
    return edges
