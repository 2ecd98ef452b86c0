"""The Merkle tree of RFC 6962: roots, a frontier to append to, proofs and their verification. Pure; hashes in, hashes out.

Everything here takes leaf hashes, made by leaf_hash(); the trees hold no data.
"""

import hashlib
from collections.abc import Sequence

HASH = 32


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def empty_root() -> bytes:
    return hashlib.sha256(b"").digest()


class Frontier:
    """The roots of the full subtrees of a tree, largest first: all that appending needs, log2(size) hashes."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size < 0 or size.bit_count() != len(hashes) or any(len(one) != HASH for one in hashes):
            raise ValueError("a frontier has one hash for each bit of its size")
        self.size, self.hashes = size, list(hashes)

    def append(self, leaf: bytes) -> None:
        size = self.size
        while size & 1:
            leaf = hashlib.sha256(b"\x01" + self.hashes.pop() + leaf).digest()
            size >>= 1
        self.hashes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        if not self.hashes:
            return empty_root()
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root


class Tree:
    """A whole tree in memory, 64 bytes a leaf: level n holds the hashes of its full subtrees of 2**n leaves."""

    def __init__(self) -> None:
        self.levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        return len(self.levels[0]) // HASH

    def append(self, leaf: bytes) -> None:
        self.levels[0] += leaf
        at, level = self.size, 0
        while not at & 1:
            below = self.levels[level]
            at, level = at >> 1, level + 1
            if level == len(self.levels):
                self.levels.append(bytearray())
            self.levels[level] += hashlib.sha256(b"\x01" + below[-2 * HASH :]).digest()

    def root(self, size: int | None = None) -> bytes:
        """Of the whole tree, or of what it was at a smaller size."""
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise ValueError("the tree is smaller than that")
        return self._range(0, size) if size else empty_root()

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The audit path of a leaf in the tree of a size (PATH of RFC 6962, 2.1.1), nearest sibling first."""
        size = self.size if size is None else size
        if not 0 <= index < size <= self.size:
            raise ValueError("no such leaf")
        path, start, end = [], 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """The proof that the tree of size `old` is a beginning of that of size `new` (PROOF of RFC 6962, 2.1.2)."""
        new = self.size if new is None else new
        if not 0 <= old <= new <= self.size:
            raise ValueError("no such sizes")
        if old in (0, new):
            return []
        proof, start, end, whole = [], 0, new, True
        while end != old:
            middle = start + _split(end - start)
            if old <= middle:
                proof.append(self._range(middle, end))
                end = middle
            else:
                proof.append(self._range(start, middle))
                start, whole = middle, False
        if not whole:
            proof.append(self._range(start, end))
        return proof[::-1]

    def _range(self, start: int, end: int) -> bytes:
        """The root over leaves [start, end); start is where a split of some tree fell."""
        count = end - start
        if count & (count - 1) == 0:
            level = count.bit_length() - 1
            at = (start >> level) * HASH
            return bytes(self.levels[level][at : at + HASH])
        middle = start + _split(count)
        return node_hash(self._range(start, middle), self._range(middle, end))


def _split(count: int) -> int:
    """The largest power of two below count (count > 1)."""
    return 1 << (count - 1).bit_length() - 1


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162, 2.1.3.2."""
    if not 0 <= index < size or any(len(one) != HASH for one in (leaf, root, *path)):
        return False
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """RFC 9162, 2.1.4.2. That an empty tree is the beginning of any tree is no proof of anything: False."""
    if not 0 < old <= new or any(len(one) != HASH for one in proof):
        return False
    if old == new:
        return not proof and old_root == new_root
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
