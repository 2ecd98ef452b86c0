"""The tree against published vectors, and against itself for any sizes."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ledger.merkle import (
    Frontier,
    Tree,
    empty_root,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from app.ledger.offline import Frontier as OfflineFrontier
from app.ledger.offline import Wrong, root_of_path

VECTORS = json.loads(Path(__file__).with_name("merkle_vectors.json").read_text())
LEAVES = [bytes.fromhex(one) for one in VECTORS["leaf_inputs"]]


def raw(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def tree_of(size: int) -> Tree:
    tree = Tree()
    for number in range(size):
        tree.append(leaf_hash(number.to_bytes(4)))
    return tree


def plain_root(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962 writes it down."""
    if not leaves:
        return empty_root()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(plain_root(leaves[:k]), plain_root(leaves[k:]))


@pytest.mark.parametrize("kind", [Frontier, OfflineFrontier, Tree])
def test_published_roots(kind: Any) -> None:
    tree = kind()
    for size, root in enumerate(VECTORS["roots"]):
        assert tree.root().hex() == root
        if size < len(LEAVES):
            tree.append(leaf_hash(LEAVES[size]))


@pytest.mark.parametrize("case", VECTORS["inclusion"], ids=lambda case: case["desc"])
def test_published_inclusion_proofs(case: dict[str, Any]) -> None:
    leaf, path, root = raw(case["leafHash"]), [raw(one) for one in case["proof"] or []], raw(case["root"])
    assert verify_inclusion(leaf, case["leafIdx"], case["treeSize"], path, root) is not case["wantErr"]
    try:  # the offline verifier is another program: it has to say the same
        found = (
            len(leaf) == 32  # it makes every leaf itself
            and 0 <= case["leafIdx"] < case["treeSize"]
            and root_of_path(leaf, case["leafIdx"], case["treeSize"], path) == root
        )
    except Wrong:
        found = False
    assert found is not case["wantErr"]


@pytest.mark.parametrize("case", VECTORS["consistency"], ids=lambda case: case["desc"])
def test_published_consistency_proofs(case: dict[str, Any]) -> None:
    roots, proof = (raw(case["root1"]), raw(case["root2"])), [raw(one) for one in case["proof"] or []]
    assert verify_consistency(case["size1"], case["size2"], *roots, proof) is not case["wantErr"]


def test_the_published_proofs_are_those_that_are_made() -> None:
    tree = Tree()
    for leaf in LEAVES:
        tree.append(leaf_hash(leaf))
    made = 0
    for case in VECTORS["inclusion"]:
        if case["desc"] == "happy path" and case["treeSize"] <= 8 and raw(case["root"]) == tree.root(case["treeSize"]):
            assert tree.inclusion(case["leafIdx"], case["treeSize"]) == [raw(one) for one in case["proof"] or []]
            made += 1
    for case in VECTORS["consistency"]:
        if case["desc"] == "happy path" and raw(case["root2"]) == tree.root(case["size2"]):
            assert tree.consistency(case["size1"], case["size2"]) == [raw(one) for one in case["proof"] or []]
            made += 1
    assert made >= 8


@given(st.integers(0, 300))
def test_appending_is_hashing_all_at_once(size: int) -> None:
    tree, frontier, offline = tree_of(size), Frontier(), OfflineFrontier()
    leaves = [leaf_hash(number.to_bytes(4)) for number in range(size)]
    for leaf in leaves:
        frontier.append(leaf)
        offline.append(leaf)
    assert tree.root() == frontier.root() == offline.root() == plain_root(leaves)
    again = Frontier(frontier.size, frontier.hashes)
    again.append(leaf_hash(b"next"))
    assert again.root() == plain_root([*leaves, leaf_hash(b"next")])


@given(st.data())
def test_every_inclusion_proof_holds_and_no_changed_one(data: st.DataObject) -> None:
    whole = data.draw(st.integers(1, 200))
    size = data.draw(st.integers(1, whole))
    index = data.draw(st.integers(0, size - 1))
    tree = tree_of(whole)
    leaf, path, root = leaf_hash(index.to_bytes(4)), tree.inclusion(index, size), tree.root(size)
    assert verify_inclusion(leaf, index, size, path, root)
    assert root_of_path(leaf, index, size, path) == root
    other = data.draw(st.integers(0, size - 1).filter(lambda one: one != index)) if size > 1 else None
    if other is not None:
        assert not verify_inclusion(leaf, other, size, path, root)
        bent = data.draw(st.integers(0, len(path) - 1))
        changed = [bytes(32) if number == bent else one for number, one in enumerate(path)]
        assert not verify_inclusion(leaf, index, size, changed, root)
        assert not verify_inclusion(leaf, index, size, path[:-1], root)
        assert root_of_path(leaf, index, size, changed) != root
    assert not verify_inclusion(leaf, index, size, [*path, bytes(32)], root)
    assert not verify_inclusion(leaf_hash(b"another"), index, size, path, root)
    assert not verify_inclusion(leaf, size, size, path, root) and not verify_inclusion(leaf, -1, size, path, root)


@given(st.data())
def test_any_two_sizes_are_consistent_and_nothing_else_is(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, 200))
    old = data.draw(st.integers(1, new))
    tree = tree_of(new)
    proof = tree.consistency(old, new)
    assert verify_consistency(old, new, tree.root(old), tree.root(new), proof)
    assert not verify_consistency(0, new, empty_root(), tree.root(new), [])  # proves nothing, so it is none
    if old < new:
        assert not verify_consistency(old, new, bytes(32), tree.root(new), proof)
        assert not verify_consistency(old, new, tree.root(old), bytes(32), proof)
        assert not verify_consistency(old, new, tree.root(old), tree.root(new), [*proof, bytes(32)])
        assert not verify_consistency(old, new, tree.root(old), tree.root(new), proof[:-1])
        forked = tree_of(old - 1)
        forked.append(leaf_hash(b"another"))
        assert not verify_consistency(old, new, forked.root(), tree.root(new), proof)


def test_what_does_not_exist_is_refused() -> None:
    tree = tree_of(5)
    for call in (
        lambda: tree.inclusion(5),
        lambda: tree.inclusion(-1),
        lambda: tree.inclusion(0, 6),
        lambda: tree.consistency(3, 6),
        lambda: tree.consistency(4, 3),
        lambda: tree.root(6),
        lambda: Frontier(3, [bytes(32)]),
        lambda: Frontier(1, [bytes(31)]),
    ):
        with pytest.raises(ValueError):
            call()
