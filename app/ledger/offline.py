#!/usr/bin/env python3
"""Verifies a ledger export, offline: needs Python 3.11 or later and the package `cryptography`, nothing else.

    python verify_ledger.py EXPORT [--key kid:base64]... [--revoked kid]... [--without-anchors]

Give the public keys you got on another way with --key: an export can vouch for its own keys only to itself.
Prints a verdict as JSON. Exit code 0: everything holds. 1: something does not. 2: it cannot be read at all.
It shares no code with the service that wrote the export, on purpose.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import re
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "mission-root-ledger-export 1"
ANCHOR = "mission-root ledger anchor 1"
SUCCESSION = "mission-root anchor key 1"
MEMBERS = {
    "manifest": {"kind", "format", "tenant", "subject", "anchored"},
    "key": {"kind", "kid", "public_key"},
    "succession": {"kind", "object"},
    "anchor": {"kind", "object"},
    "fact": {
        "kind", "position", "subject", "seq", "type", "actor", "at", "body", "prev", "hash", "index", "proof",
    },
    "verifier": {"kind", "name", "source"},
    "end": {"kind", "facts", "sha256"},
}  # fmt: skip
LONGEST = 1 << 20  # bytes of a line: this source is the longest there is
MOMENT = re.compile(r"\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
ORDER = ["manifest", "key", "succession", "anchor", "fact", "verifier", "end"]
ANCHOR_MEMBERS = {
    "at", "by", "entries", "first", "frontier", "heads", "last", "number", "previous", "purpose", "root", "tenant", "tree_size",
}  # fmt: skip


class Wrong(Exception):
    """Something does not hold."""


def sha256(data):
    return hashlib.sha256(data).digest()


def leaf_hash(data):
    return sha256(b"\x00" + data)


def node_hash(left, right):
    return sha256(b"\x01" + left + right)


class Frontier:
    """The full subtrees of a growing tree (RFC 6962), largest first."""

    def __init__(self):
        self.size, self.hashes = 0, []

    def append(self, leaf):
        bits = self.size
        while bits & 1:
            leaf, bits = node_hash(self.hashes.pop(), leaf), bits >> 1
        self.hashes.append(leaf)
        self.size += 1

    def root(self):
        if not self.hashes:
            return sha256(b"")
        root = self.hashes[-1]
        for left in self.hashes[-2::-1]:
            root = node_hash(left, root)
        return root


def root_of_path(leaf, index, size, path):
    """The root that an audit path leads to, by the shape of the tree; Wrong when the path has another length."""

    def climb(index, size, left):
        if size == 1:
            if left:
                raise Wrong("its proof is too long")
            return leaf
        if not left:
            raise Wrong("its proof is too short")
        split = 1 << (size - 1).bit_length() - 1
        if index < split:
            return node_hash(climb(index, split, left[:-1]), left[-1])
        return node_hash(left[-1], climb(index - split, size - split, left[:-1]))

    return climb(index, size, path)


def strict(pairs):
    if len({name for name, _ in pairs}) != len(pairs):
        raise Wrong("a member stands twice")
    return dict(pairs)


def canonical(value):
    """RFC 8785 for what is used here: ASCII member names, strings, whole numbers, null, lists."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def whole(value):
    if type(value) is not int or value < 0:
        raise Wrong("a number is none")
    return value


def digest(text, also_empty=False):
    if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{64}|" if also_empty else r"[0-9a-f]{64}", text):
        raise Wrong("a hash is none")
    return bytes.fromhex(text)


def position(text):
    found = re.fullmatch(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,18})", text) if isinstance(text, str) else None
    if not found:
        raise Wrong("its position is none")
    return int(found[1]), int(found[2])


def public_key(text):
    raw = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    if len(raw) != 32:
        raise Wrong("a public key has 32 bytes")
    return raw


def opened(text, keys, members, purpose):
    """A signed object's statement, when it has its one form and one of these keys signed it."""
    found = json.loads(text, object_pairs_hook=strict)
    if not isinstance(found, dict) or set(found) != {"signature", "statement"} or canonical(found) != text.encode():
        raise Wrong("has another form")
    said = found["statement"]
    if not isinstance(said, dict) or set(said) != members or said["purpose"] != purpose:
        raise Wrong("has another form")
    if said["by"] not in keys:
        raise Wrong("is signed by a key that nobody vouches for")
    try:
        raw = base64.b64decode(found["signature"], validate=True)
        Ed25519PublicKey.from_public_bytes(keys[said["by"]]).verify(raw, canonical(said))
    except InvalidSignature:
        raise Wrong("has a signature that is not genuine") from None
    if base64.b64encode(raw).decode() != found["signature"]:
        raise Wrong("has another form")
    return said


class Reader:
    """Reads the lines once, in order, and keeps only what later lines are held against."""

    def __init__(self, given, revoked, without_anchors):
        self.given, self.revoked, self.without_anchors = given, revoked, without_anchors
        self.listed, self.successions, self.keys, self.anchors = {}, [], None, []
        self.manifest, self.end = {}, None
        self.facts = self.covered = self.next_anchor = 0
        self.last = {}  # subject -> seq and hash of its newest fact
        self.tree, self.here, self.interval, self.ends = Frontier(), (0, -1), hashlib.sha256(), {}
        self.first_here = None
        self.place = 0

    def line(self, raw, so_far):
        found = json.loads(raw, object_pairs_hook=strict)
        kind = found.get("kind") if isinstance(found, dict) else None
        if kind not in MEMBERS or set(found) != MEMBERS[kind]:
            raise Wrong("the line has other members than it may have")
        if ORDER.index(kind) < self.place or (not self.manifest) != (kind == "manifest") or self.end is not None:
            raise Wrong("the line stands in another place than it may")
        self.place = ORDER.index(kind)
        getattr(self, "on_" + kind)(found, so_far)

    def on_manifest(self, said, _):
        if said["format"] != FORMAT:
            raise Wrong("the format is another one")
        if not isinstance(said["tenant"], str) or not isinstance(said["subject"], (str, type(None))):
            raise Wrong("the manifest names no tenant or subject")
        whole(said["anchored"])
        self.manifest = said

    def on_key(self, said, _):
        if said["kid"] in self.listed or public_key(said["public_key"]) != self.given.get(
            said["kid"], public_key(said["public_key"])
        ):
            raise Wrong("a key of this name is another one")
        self.listed[said["kid"]] = public_key(said["public_key"])

    def on_succession(self, said, _):
        self.successions.append(said["object"])

    def settle_keys(self):
        """The keys that count: those given, else those listed, and whoever they vouch for."""
        if self.keys is not None:
            return
        self.keys = dict(self.given or self.listed)
        waiting = self.successions
        while waiting:
            left = []
            for one in waiting:
                signing = {kid: raw for kid, raw in self.keys.items() if kid not in self.revoked}
                try:
                    said = opened(one, signing, {"by", "key", "public_key", "purpose"}, SUCCESSION)
                except Wrong:
                    left.append(one)
                    continue
                if self.keys.setdefault(said["key"], public_key(said["public_key"])) != public_key(said["public_key"]):
                    raise Wrong("a succession names another key than is known")
            if len(left) == len(waiting):
                break  # the others' words count for nothing: an older key may be unknown here, or revoked since
            waiting = left
        for kid, raw in self.listed.items():
            if self.keys.get(kid) != raw:
                raise Wrong(f"key {kid} is vouched for by none of the keys that were given")

    def on_anchor(self, said, _):
        self.settle_keys()
        try:
            found = opened(said["object"], self.keys, ANCHOR_MEMBERS, ANCHOR)
        except Wrong as wrong:
            raise Wrong(f"anchor {len(self.anchors) + 1} {wrong}") from None
        before = self.anchors[-1] if self.anchors else None
        if found["tenant"] != self.manifest["tenant"]:
            raise Wrong("an anchor is another tenant's")
        if self.manifest["subject"] is None:
            number, previous = (before["number"] + 1, before["sha256"]) if before else (1, None)
            if found["number"] != number or found["previous"] != previous:
                raise Wrong(f"anchor {found['number']} does not follow the anchor before it")
            if before and found["tree_size"] <= before["tree_size"]:
                raise Wrong(f"anchor {found['number']} covers nothing new")
        elif before:
            raise Wrong("a partial export has one anchor")
        self.anchors.append(found | {"sha256": sha256(said["object"].encode()).hex()})

    def on_fact(self, said, _):
        body = said["body"].encode()
        if not MOMENT.fullmatch(said["at"]):  # what is hashed is joined: where a field ends is to be beyond doubt
            raise Wrong("its time is none")
        before = self.last.get(said["subject"], (0, ""))
        if whole(said["seq"]) != before[0] + 1 or said["prev"] != before[1]:
            raise Wrong("does not follow its predecessor")
        fields = [self.manifest["tenant"], said["subject"], str(said["seq"]), said["type"], said["actor"], said["at"]]
        if sha256(digest(said["prev"], True) + ("|".join(fields) + "\n").encode() + body) != digest(said["hash"]):
            raise Wrong("its content does not match its hash")
        here = position(said["position"])
        if here <= self.here:
            raise Wrong("stands out of order")
        if self.manifest["subject"] not in (None, said["subject"]):
            raise Wrong("is of another subject than the export")
        line = f"{said['position']} {said['subject']} {said['seq']} {said['type']} {said['hash']}".encode()
        self.here = here
        self.last[said["subject"]] = said["seq"], said["hash"]
        self.proved(said, here, line)
        self.facts += 1

    def proved(self, said, here, line):
        newest = self.anchors[-1] if self.anchors else None
        if newest is None or here > position(newest["last"]):
            if said["index"] is not None or said["proof"] is not None:
                raise Wrong("is proved by no anchor")
            return
        index = whole(said["index"])
        self.covered += 1
        if self.manifest["subject"] is not None:
            if index >= newest["tree_size"] or not isinstance(said["proof"], list):
                raise Wrong("has no proof")
            path = [digest(one) for one in said["proof"]]
            if root_of_path(leaf_hash(line), index, newest["tree_size"], path) != digest(newest["root"]):
                raise Wrong("its proof does not lead to the anchor's root")
            return
        if index != self.tree.size or said["proof"] is not None:
            raise Wrong("has another place in the tree")
        self.tree.append(leaf_hash(line))
        self.first_here = self.first_here or said["position"]
        self.interval.update(line + b"\n")
        self.ends[said["subject"]] = line
        anchor = self.anchors[self.next_anchor]
        if here >= position(anchor["last"]):
            self.reached(anchor, said["position"])

    def reached(self, anchor, last):
        """The facts of an anchor's interval are all read: they are its tree, or one of them was changed."""
        heads = hashlib.sha256(
            b"".join(self.ends[one] + b"\n" for one in sorted(self.ends, key=str.encode))
        ).hexdigest()
        told = self.tree.size, self.tree.root().hex(), [one.hex() for one in self.tree.hashes]
        if told != (anchor["tree_size"], anchor["root"], anchor["frontier"]):
            raise Wrong(f"the facts up to here are not those that anchor {anchor['number']} signed")
        around = self.first_here, last, self.interval.hexdigest(), heads
        if around != (anchor["first"], anchor["last"], anchor["entries"], anchor["heads"]):
            raise Wrong(f"the facts up to here are not those that anchor {anchor['number']} signed")
        self.next_anchor += 1
        self.interval, self.ends, self.first_here = hashlib.sha256(), {}, None

    def on_verifier(self, said, _):
        if said["name"] != "verify_ledger.py" or not isinstance(said["source"], str):
            raise Wrong("the verifier is named otherwise")

    def on_end(self, said, so_far):
        if said["sha256"] != so_far.hexdigest() or said["facts"] != self.facts:
            raise Wrong("the file is not the one that was written")
        self.end = said

    def finish(self):
        if self.end is None:
            raise Wrong("the file is cut off")
        self.settle_keys()
        newest = self.anchors[-1] if self.anchors else None
        if self.manifest["anchored"] != (newest["tree_size"] if newest else 0):
            raise Wrong("the manifest names another newest anchor")
        if not self.covered and not self.without_anchors:
            raise Wrong("no anchor signs any of this (--without-anchors takes the chains alone)")
        if newest and self.manifest["subject"] is None and self.covered != newest["tree_size"]:
            raise Wrong("facts that the newest anchor signed are missing")
        if newest and newest["by"] in self.revoked:
            raise Wrong("the newest anchor is signed by a key that was revoked")


def verify(path, given=None, revoked=(), without_anchors=False):
    """The verdict over a file, as a dict."""
    reader = Reader(dict(given or {}), frozenset(revoked), without_anchors)
    so_far, number, raw, bad = hashlib.sha256(), 0, b"", None
    try:
        with pathlib.Path(path).open("rb") as file:
            while raw := file.readline(LONGEST + 1):
                number += 1
                if len(raw) > LONGEST:
                    raise Wrong("the line is longer than any may be")
                reader.line(raw, so_far)
                so_far.update(raw)
        raw = b""
        reader.finish()
    except (Wrong, ValueError, TypeError, LookupError, AttributeError, RecursionError) as wrong:
        bad = {"line": number, "finding": str(wrong) if isinstance(wrong, Wrong) else "the line cannot be read"}
        try:
            fact = json.loads(raw) if len(raw) <= LONGEST else None
        except (ValueError, RecursionError):
            fact = None
        if isinstance(fact, dict) and fact.get("kind") == "fact":
            bad |= {name: fact.get(name) for name in ("subject", "seq", "type", "position")}
    newest = reader.anchors[-1] if reader.anchors else {}
    return {
        "verified": bad is None,
        "first_bad": bad,
        "tenant": reader.manifest.get("tenant"),
        "subject": reader.manifest.get("subject"),
        "facts": reader.facts,
        "covered": reader.covered,
        "tail": reader.facts - reader.covered,
        "anchors": len(reader.anchors),
        "anchored_at": newest.get("at"),
        "keys": sorted({one["by"] for one in reader.anchors}),
        "keys_given": bool(given),
    }


def main(arguments=None):
    said = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    said.add_argument("export")
    said.add_argument("--key", action="append", default=[], metavar="KID:BASE64", help="a public key you trust")
    said.add_argument("--revoked", action="append", default=[], metavar="KID", help="a key you trust no longer")
    said.add_argument("--without-anchors", action="store_true", help="take chains that no anchor signs")
    asked = said.parse_args(arguments)
    try:
        given = {one.partition(":")[0]: public_key(one.partition(":")[2]) for one in asked.key}
        verdict = verify(asked.export, given, asked.revoked, asked.without_anchors)
    except (OSError, ValueError, Wrong) as wrong:
        print(f"verify_ledger: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps(verdict))  # in ASCII: a hostile file may hold what no terminal takes
    return 0 if verdict["verified"] else 1


if __name__ == "__main__":
    sys.exit(main())
