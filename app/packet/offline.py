#!/usr/bin/env python3
"""Verifies a reviewer packet, offline: needs Python 3.10 or later and nothing else.

    python verify.py [PACKET] [--key kid:base64]... [--revoked kid]... [--without-anchors] [--json]

PACKET is the zip or the folder it was unpacked into; left out, the folder this file lies in. Give the public keys that you
got on another way with --key: a packet can vouch for its own keys only to itself. Exit code 0: everything holds. 1: something
does not, and the first thing that is wrong is named. 2: the packet cannot be read at all.

What is checked against signed facts: the chain of facts, artifacts, citations against the cited bytes, the review's verdict,
what was proposed in which words, what was approved by whom against what was executed and read back, what was asked about it,
answered, and open at each decision, to which roles it was handed, and who took it back or revised it, each with why. What only
the manifest holds: packet.html, receipts (but for what a human vouched for, who, and why), whose requests they were, their risk,
a rule's terms beside its id, version and how many have to approve, who may decide now, reasons of policy, the public keys
of approvers, and times beside those of the facts; whoever can rewrite the manifest can rewrite those. A signed decision
whose key is not in the packet (it was revoked since) is counted, not checked.
It shares no code with the service that wrote the packet, on purpose; signatures (Ed25519) are verified in this file, too.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import re
import sys
import zipfile

FORMAT = "mission-root packet 1"
LEDGER = "mission-root ledger-export 1"
ANCHOR = "mission-root ledger anchor 1"
SUCCESSION = "mission-root anchor key 1"
FIXED = ("README.txt", "approvals.jsonl", "ledger/facts.jsonl", "packet.html", "packet.json", "policy_decisions.jsonl",
         "shown.jsonl", "verify.py", "writebacks.jsonl")  # fmt: skip
NAMES = re.compile(r"artifacts/[a-z_]{1,64}\.[0-9a-f]{64}\.json|sources/[0-9a-f]{64}\.txt")
LARGEST = 256 << 20  # bytes of one file
MANIFEST = "manifest.json"
CITING = ("aggregation_packet", "review_packet", "writeback_proposal")
STATES = (
    "accepted",
    "dispatched",
    "running",
    "in_review",
    "awaiting_approval",
    "executing",
    "completed",
    "failed",
    "cancelled",
    "denied",
)


# What the file of a kind holds beside what packet.json shows of it, and what that shows of a decision.
BESIDE = {"approvals": set(), "writebacks": {"observed", "observed_sha256"}, "policy_decisions": {"inputs"}}
DECISION = ("approver", "verdict", "comment", "decided_at", "open_questions")


class Wrong(Exception):
    """Something does not hold; `where` is the file, or the file and its line."""

    def __init__(self, where, what):
        super().__init__(f"{where}: {what}")
        self.where, self.what = where, what


# --- Ed25519 (RFC 8032), verification only

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def unpacked(raw):
    """A point from its 32 bytes; None when they are none."""
    y = int.from_bytes(raw, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def plus(a, b):
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number, point):
    made = (0, 1, 1, 0)
    while number:
        if number & 1:
            made = plus(made, point)
        point, number = plus(point, point), number >> 1
    return made


BASE = unpacked((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def signed(public, signature, message):
    """Whether a signature is that key's over that message."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, head, scalar = unpacked(public), unpacked(signature[:32]), int.from_bytes(signature[32:], "little")
    if key is None or head is None or scalar >= Q:
        return False
    digest = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % Q
    left, right = times(scalar, BASE), plus(head, times(digest, key))
    return not (left[0] * right[2] - right[0] * left[2]) % P and not (left[1] * right[2] - right[1] * left[2]) % P


# --- reading


class Files:
    """The packet's files, from a zip or a folder."""

    def __init__(self, place):
        self.path = pathlib.Path(place)
        self.zip = None if self.path.is_dir() else zipfile.ZipFile(self.path)
        if self.zip:
            self.names = self.zip.namelist()
        else:
            self.names = sorted(
                one.relative_to(self.path).as_posix() for one in self.path.rglob("*") if not one.is_dir()
            )
        self.known: set[str] = set()
        self.last = "", b""
        for name in self.names:
            need(name not in self.known, name, "stands in the packet twice")
            self.known.add(name)

    def read(self, name):
        if name != self.last[0]:  # citations of one source follow each other
            self.last = name, self.fetch(name)
        return self.last[1]

    def fetch(self, name):
        need(name in self.known, name, "is missing")
        try:
            size = self.zip.getinfo(name).file_size if self.zip else (self.path / name).stat().st_size
            if size > LARGEST:
                raise Wrong(name, "is larger than any file of a packet")
            return self.zip.read(name) if self.zip else (self.path / name).read_bytes()
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as broken:
            raise Wrong(name, f"cannot be read ({type(broken).__name__})") from None
        except Exception as broken:  # zlib.error and whatever else a damaged archive is to its reader
            if isinstance(broken, Wrong):
                raise
            raise Wrong(name, "cannot be read") from None

    def lines(self, name):
        """(where, object) of each line of a file."""
        data = self.read(name)
        if data and not data.endswith(b"\n"):
            raise Wrong(name, "is cut off")
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            yield f"{name} line {number}", loaded(f"{name} line {number}", line)


def strict(pairs):
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a member stands twice")
    return dict(pairs)


def loaded(where, data):
    try:
        found = json.loads(data, object_pairs_hook=strict)
    except (ValueError, RecursionError):
        raise Wrong(where, "is no JSON") from None
    if not isinstance(found, dict):
        raise Wrong(where, "is no object")
    return found


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def hash_of(said):
    """The hash of what somebody said, or None."""
    return None if said is None else sha256(said.encode())


def need(holds, where, what):
    if not holds:
        raise Wrong(where, what)


def same(where, what, found, expected):
    need(found == expected, where, f"{what} is {brief(found)}, and {brief(expected)} by the record")


def brief(value):
    text = json.dumps(value)
    return text if len(text) <= 90 else text[:87] + "..."


# --- the manifest


def check_manifest(files):
    manifest = loaded(MANIFEST, files.read(MANIFEST))
    need(set(manifest) == {"format", "mission", "tenant", "files"}, MANIFEST, "has other members than it may have")
    need(manifest["format"] == FORMAT, MANIFEST, "is of another format")
    need(files.read(MANIFEST) == f"{canonical(manifest)}\n".encode(), MANIFEST, "has another form")
    listed = manifest["files"]
    for name in files.names:
        need(name == MANIFEST or name in listed, name, "is not in the manifest")
        need(name == MANIFEST or name in FIXED or NAMES.fullmatch(name), name, "is no file of a packet")
    for name in (*FIXED, *sorted(listed)):
        need(name in listed, name, "is missing")
        data = files.read(name)
        need(
            listed[name] == {"sha256": sha256(data), "size": len(data)}, name, "is not the file that the manifest names"
        )
    return manifest


# --- the facts


class Facts:
    """The mission's facts: one chain from its first, each as far as an anchor signs it."""

    def __init__(self, given, revoked):
        self.given, self.revoked = given, revoked
        self.listed, self.successions, self.anchor, self.keys = {}, [], None, {}
        self.all, self.covered = [], 0
        self.manifest: dict = {}

    def read(self, files, manifest):
        name, ended = "ledger/facts.jsonl", False
        for where, said in files.lines(name):
            kind = said.get("kind")
            need(not ended, where, "stands behind the end")
            need((kind == "manifest") == (not self.manifest), where, "stands in another place than it may")
            if kind == "manifest":
                same(where, "the tenant", said.get("tenant"), manifest["tenant"])
                same(where, "the subject", said.get("subject"), manifest["mission"])
                self.manifest = said
            elif kind == "key":
                self.listed[said["kid"]] = public_key(where, said["public_key"])
            elif kind == "succession":
                self.successions.append(said["object"])
            elif kind == "anchor":
                need(self.anchor is None, where, "is a second anchor")
                self.settle_keys(where)
                self.anchor = self.opened(where, said["object"], ANCHOR)
                same(where, "the anchor's tenant", self.anchor["tenant"], manifest["tenant"])
            elif kind == "fact":
                self.fact(where, said)
            elif kind == "end":
                same(where, "the number of facts", said["facts"], len(self.all))
                ended = True
            else:
                need(kind == "verifier", where, "is of no known kind")
        need(ended, name, "is cut off")
        need(self.all, name, "holds no fact")
        same(
            name,
            "what the newest anchor covers",
            self.manifest["anchored"],
            self.anchor["tree_size"] if self.anchor else 0,
        )

    def settle_keys(self, where):
        """The keys that count: those given, else those listed, and whoever they vouch for."""
        for kid, raw in self.listed.items():
            need(self.given.get(kid, raw) == raw, where, f"key {kid} is another one than was given")
        self.keys = dict(self.given or self.listed)
        for _ in self.successions:
            for one in self.successions:
                try:
                    said = self.opened(where, one, SUCCESSION)
                except Wrong:
                    continue
                if said["by"] not in self.revoked:
                    self.keys.setdefault(said["key"], public_key(where, said["public_key"]))

    def opened(self, where, text, purpose):
        """A signed object's statement, when one of the keys signed it."""
        found = loaded(where, text.encode())
        said = found.get("statement")
        need(
            isinstance(said, dict) and said.get("purpose") == purpose and canonical(found) == text,
            where,
            "has another form",
        )
        need(said.get("by") in self.keys, where, "is signed by a key that nobody vouches for")
        need(said["by"] not in self.revoked, where, "is signed by a key that was revoked")
        raw = base64.b64decode(found["signature"], validate=True)
        need(signed(self.keys[said["by"]], raw, canonical(said).encode()), where, "has a signature that is not genuine")
        return said

    def fact(self, where, said):
        before = self.all[-1] if self.all else None
        same(where, "the subject", said["subject"], self.manifest["subject"])
        same(where, "its place in the chain", said["seq"], len(self.all) + 1)
        same(where, "the hash before it", said["prev"], before["hash"] if before else "")
        fields = [self.manifest["tenant"], said["subject"], str(said["seq"]), said["type"], said["actor"], said["at"]]
        joined = bytes.fromhex(said["prev"]) + ("|".join(fields) + "\n").encode() + said["body"].encode()
        same(where, "the hash", said["hash"], sha256(joined))
        need(before is None or place(said) > place(before), where, "stands out of order")
        line = f"{said['position']} {said['subject']} {said['seq']} {said['type']} {said['hash']}".encode()
        if self.anchor and place(said) <= place({"position": self.anchor["last"]}):
            need(isinstance(said["proof"], list) and type(said["index"]) is int, where, "has no proof")
            path = [bytes.fromhex(one) for one in said["proof"]]
            root = climb(where, hashlib.sha256(b"\0" + line).digest(), said["index"], self.anchor["tree_size"], path)
            need(root.hex() == self.anchor["root"], where, "its proof does not lead to the root that the anchor signs")
            self.covered += 1
        else:
            need(said["proof"] is None and said["index"] is None, where, "is proved by no anchor")
        self.all.append({**said, "where": where, "body": loaded(where, said["body"])})

    def of(self, *types):
        return [fact for fact in self.all if fact["type"] in types]


def place(fact):
    xid, _, number = fact["position"].partition("-")
    return int(xid), int(number)


def climb(where, leaf, index, size, path):
    """The root that an audit path leads to (RFC 6962)."""
    need(0 <= index < size, where, "its place in the tree is none")
    if size == 1:
        need(not path, where, "its proof is too long")
        return leaf
    need(path, where, "its proof is too short")
    split = 1 << (size - 1).bit_length() - 1
    if index < split:
        return hashlib.sha256(b"\1" + climb(where, leaf, index, split, path[:-1]) + path[-1]).digest()
    return hashlib.sha256(b"\1" + path[-1] + climb(where, leaf, index - split, size - split, path[:-1])).digest()


def canonical(value):
    """RFC 8785 for what is signed here: ASCII member names, strings, whole numbers, null, lists."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def public_key(where, text):
    raw = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    need(len(raw) == 32, where, "a public key has 32 bytes")
    return raw


# --- artifacts, sources, citations


def check_artifacts(files, facts, mission):
    """The artifacts by id; exactly those that the facts name. None stands for what they say was removed under retention."""
    named = {
        fact["body"]["artifact"]: (fact["body"]["sha256"], fact["body"]["schema_name"])
        for fact in facts.of("artifact.stored")
    }
    for fact in facts.of("mission.accepted"):
        named[fact["body"]["envelope"]] = fact["body"]["envelope_sha256"], "mission_envelope"
    held = {name for name in files.names if name.startswith("artifacts/")}
    gone = {digest for fact in facts.of("bytes.removed") for digest in fact["body"]["sha256"]}
    found = {}
    for id, (digest, schema) in named.items():
        name = f"artifacts/{schema}.{digest}.json"
        if digest in gone and name not in held:
            found[id] = name, None
            continue
        data = files.read(name)
        need(sha256(data) == digest, name, "is not the artifact that was stored")
        content = loaded(name, data)
        same(name, "the mission", content.get("mission_id"), mission)
        same(name, "the schema", content.get("schema_name"), schema)
        found[id] = name, content
        held.discard(name)
    for name in sorted(held):
        raise Wrong(name, "is named by no fact")
    return found


def check_sources(files):
    """(source, document) pairs that the mission was shown; and the bytes of a source, read when they are asked for."""
    for name in files.names:
        if name.startswith("sources/"):
            need(sha256(files.read(name)) == name[8:-4], name, "is not the source it is named after")
    shown = set()
    for where, said in files.lines("shown.jsonl"):
        need(isinstance(said.get("source"), str) and isinstance(said.get("document"), str), where, "names no source")
        need((said["source"], said["document"]) not in shown, where, "stands twice")
        shown.add((said["source"], said["document"]))
    return shown


def holds(files, shown, span):
    """Whether a citation says what stands in the bytes it points to."""
    name = f"sources/{span['source']}.txt"
    if (span["source"], span["document"]) not in shown or name not in files.known:
        return False
    quoted = files.read(name)[span["start"] : span["end"]]
    digest = span.get("quote_sha256")
    return (
        len(quoted) == span["end"] - span["start"]
        and quoted == span["quote"].encode()
        and digest in (None, sha256(quoted))
    )


def check_review(files, facts, artifacts, shown):
    """The newest review of the root: its findings recomputed. None when there was no review."""
    reviews = facts.of("mission.reviewed")
    used, citations = set(), 0
    for fact in reviews:
        body = fact["body"]
        need(body["review_packet"] in artifacts, fact["where"], "its review packet is missing")
        name, review = artifacts[body["review_packet"]]
        if review is None:
            continue
        for member in ("verdict", "coverage"):
            same(name, f"the {member}", review[member], body[member])
        for claim in review["claims"]:
            for one in claim["citations"]:
                same(
                    name, f"claim {claim['claim_id']}: verified", one["verified"], holds(files, shown, one["citation"])
                )
                used.add(one["citation"]["source"])
                citations += 1
            all_hold = bool(claim["citations"]) and all(one["verified"] for one in claim["citations"])
            same(name, f"claim {claim['claim_id']}: supported", claim["supported"], all_hold)
        if body["claims"] == len(review["claims"]):
            supported = sum(claim["supported"] for claim in review["claims"])
            same(
                name,
                "the coverage of its claims",
                review["coverage"],
                supported / body["claims"] if body["claims"] else 1,
            )
        for one in review.get("contradictions") or []:
            for side in (one["one"], one["other"]):
                need(
                    holds(files, shown, side),
                    name,
                    f"a contradiction quotes what {brief(side['document'])} does not say",
                )
                used.add(side["source"])
        for source in review.get("sources") or []:
            need((source["source"], source["document"]) in shown, name, "a source was never shown to the mission")
    last = artifacts[reviews[-1]["body"]["review_packet"]] if reviews else (None, None)
    for _, content in artifacts.values():
        used |= set(cited(content)) if content and content["schema_name"] in CITING else set()
    for name in files.names:
        need(not name.startswith("sources/") or name[8:-4] in used, name, "is cited by nothing")
    return last[1], citations


def cited(value):
    """The sources that citations anywhere in an artifact point to."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if {"source", "start", "end", "quote"} <= set(one):
                yield one["source"]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


# --- decisions and changes


def check_policy(files, facts):
    found = {}
    for where, said in files.lines("policy_decisions.jsonl"):
        need(said["id"] not in found, where, "stands twice")
        same(where, "the hash of its inputs", said["inputs_sha256"], sha256(said["inputs"].encode()))
        inputs = loaded(where, said["inputs"])
        for member in ("action", "resource"):
            same(where, f"the {member}", said[member], inputs[member])
        found[said["id"]] = where, said
    for fact in facts.all:
        if (id := fact["body"].get("policy_decision")) is not None:
            need(id in found, "policy_decisions.jsonl", f"decision {id}, which {fact['where']} names, is missing")
            where, said = found[id]
            for member in ("rule", "policy_version", "effect"):
                if member in fact["body"]:
                    same(where, f"the {member}", said[member], fact["body"][member])
    return found


def check_approvals(files, facts, mission, tenant):
    """The approvals by id, each with its decisions, against the facts that opened, decided and closed them."""
    found, signatures = {}, []
    for where, said in files.lines("approvals.jsonl"):
        need(said["id"] not in found, where, "stands twice")
        same(where, "the mission", said["mission_id"], mission)
        found[said["id"]] = where, said
    states: dict = {}
    votes: dict = {}
    for fact in facts.of("approval.opened", "approval.decided", "approval.closed", "approval.superseded"):
        body, id = fact["body"], fact["body"]["approval"]
        need(id in found, "approvals.jsonl", f"approval {id}, which {fact['where']} names, is missing")
        where, said = found[id]
        if fact["type"] in ("approval.closed", "approval.superseded"):
            states[id] = body["state"]
            continue
        same(where, "the hash of what is approved", said["payload_sha256"], body["payload_sha256"])
        if fact["type"] == "approval.opened":
            same(where, "the writeback", said["writeback_id"], body.get("writeback"))
            same(where, "what it is about", said["subject"], body["subject"])
            same(where, "the revision before", said["predecessor"], body.get("predecessor"))
            states[id] = "pending"
        else:
            states[id] = body["state"]
            votes.setdefault(id, {})[fact["actor"]] = [body["verdict"], body["comment_sha256"]]
    for id, (where, said) in found.items():
        need(id in states, where, "is named by no fact")
        same(where, "the state", said["state"], states[id])
        same(
            where,
            "who decided what, and the hash of why",
            {f"principal:{one['approver']}": [one["verdict"], hash_of(one["comment"])] for one in said["decisions"]},
            votes.get(id, {}),
        )
        same(where, "the number of decisions", len(said["decisions"]), len(votes.get(id, {})))
        yes = sum(verdict == "approve" for verdict, _ in votes.get(id, {}).values())
        same(where, "the number of approvals", said["approvals"], yes)
        for one in said["decisions"]:
            same(where, "the hash that the approver saw", one["payload_sha256"], said["payload_sha256"])
            signatures.append(check_signature(where, tenant, said, one))
    check_terms(facts, found)
    check_revisions(facts, found)
    check_questions(facts, found)
    check_open(facts, found)
    check_handed(facts, found)
    return found, signatures


def check_terms(facts, approvals):
    """Under which rule each approval was at last, who broke the glass for it, and who took it back or asked for something else
    instead, and why."""
    told: dict[str, dict[str, object]] = {
        id: {"broken_by": None, "note": None, "withdrawn_by": None, "edited_by": None} for id in approvals
    }
    for fact in facts.of("approval.opened", "approval.glass_broken", "approval.closed", "approval.superseded"):
        body, kind = fact["body"], fact["type"]
        need(body["approval"] in told, "approvals.jsonl", f"the approval that {fact['where']} names is missing")
        terms = told[body["approval"]]
        if kind in ("approval.opened", "approval.glass_broken"):
            terms |= {"rule": [body["rule"], body["rule_version"]], "required": body["required"]}
        if kind == "approval.glass_broken":
            terms["broken_by"] = fact["actor"]
        if "note_sha256" in body:
            terms["note"] = body["note_sha256"]
            terms["withdrawn_by"] = fact["actor"] if kind == "approval.closed" else None
        if kind == "approval.superseded":
            told.setdefault(body["new_approval"], {})["edited_by"] = fact["actor"]
    for id, (where, said) in approvals.items():
        terms, by, glass, editor = told[id], said["withdrawn_by"], said["glass"], said["edited_by"]
        same(where, "its rule", [said["rule"]["id"], said["rule"]["version"]], terms["rule"])
        same(where, "how many have to approve", said["required"], terms["required"])
        same(where, "who broke the glass", glass and f"principal:{glass['broken_by']}", terms["broken_by"])
        same(where, "the hash of why it was taken back or revised", hash_of(said["note"]), terms["note"])
        same(where, "who took it back", by and f"principal:{by}", terms["withdrawn_by"])
        same(where, "who asked for this instead", editor and f"principal:{editor}", terms["edited_by"])


def check_revisions(facts, approvals):
    """Which revision of a change each approval is about, and which came after it."""
    after = {}
    for fact in facts.of("approval.superseded", "writeback.renewed"):
        after[fact["body"]["writeback"]] = [fact["body"]["new_writeback"], fact["body"]["new_approval"]]
    revisions = {said["writeback_id"]: said["revision"] for _, said in approvals.values()}
    for where, said in approvals.values():
        same(where, "the revision after", [said["successor"], said["successor_approval"]],
             after.get(said["writeback_id"], [None, None]))  # fmt: skip
        if said["writeback_id"] is None:
            continue
        before = said["predecessor"]
        need(before is None or before in revisions, where, "the revision before is missing")
        same(where, "the number of the revision", said["revision"], 1 if before is None else revisions[before] + 1)


def check_questions(facts, approvals):
    """What was asked about the approvals and answered, against the hashes in the facts."""
    found, told = {}, set()
    for id, (where, said) in approvals.items():
        for one in said["questions"]:
            need(one["id"] not in found, where, f"question {one['id']} stands twice")
            found[one["id"]] = where, id, one
    for fact in facts.of("approval.questioned", "approval.answered"):
        body, id = fact["body"], fact["body"]["question"]
        need(id in found, "approvals.jsonl", f"question {id}, which {fact['where']} names, is missing")
        where, approval, one = found[id]
        put = fact["type"] == "approval.questioned"
        words, who = ("question", "asked_by") if put else ("answer", "answered_by")
        same(where, "what a question is about", approval, body["approval"])
        same(where, f"who said the {words}", f"principal:{one[who]}", fact["actor"])
        need(isinstance(one[words], str), where, f"the {words} is missing")
        same(where, f"the hash of the {words}", sha256(one[words].encode()), body[f"{words}_sha256"])
        if put:
            same(where, "who was asked", one["to"], body["to"])
        told.add((id, words))
    for id, (where, _, one) in found.items():
        need((id, "question") in told, where, f"question {id} is named by no fact")
        for member in ("answer", "answered_by"):
            same(where, "whether it was answered", one[member] is not None, (id, "answer") in told)
    for where, said in approvals.values():
        waiting = sum(one["answer"] is None for one in said["questions"])
        same(where, "the number of questions that are open", said["open_questions"], waiting)


def check_open(facts, approvals):
    """How many questions each decision left unanswered, recomputed from the order of the facts."""
    unanswered: dict = {id: set() for id in approvals}
    for fact in facts.of("approval.questioned", "approval.answered", "approval.decided"):
        body, waiting = fact["body"], unanswered[fact["body"]["approval"]]
        if fact["type"] == "approval.questioned":
            waiting.add(body["question"])
        elif fact["type"] == "approval.answered":
            need(body["question"] in waiting, fact["where"], "answers what was not open")
            waiting.remove(body["question"])
        else:
            where, said = approvals[body["approval"]]
            [vote] = [one for one in said["decisions"] if fact["actor"] == f"principal:{one['approver']}"]
            what = "the number of questions that were open when it was decided"
            same(fact["where"], what, body["open_questions"], len(waiting))
            same(where, what, vote["open_questions"], len(waiting))


def check_handed(facts, approvals):
    """To which roles people handed the approvals, in the order of the facts; why, against the hashes in them."""
    told: dict = {id: [] for id in approvals}
    for fact in facts.of("approval.reassigned", "approval.escalated"):
        body = fact["body"]
        if fact["actor"].startswith("principal:"):  # else time escalated it
            need(body["approval"] in told, "approvals.jsonl", f"the approval that {fact['where']} names is missing")
            instead = fact["type"] == "approval.reassigned"
            told[body["approval"]].append([fact["actor"], body["role"], instead, body["reason_sha256"]])
    for id, (where, said) in approvals.items():
        handed = [
            [f"principal:{one['by']}", one["to"], one["instead"], sha256(one["reason"].encode())]
            for one in said["handed"]
        ]
        same(where, "how often it was handed on", len(handed), len(told[id]))
        for number, (one, other) in enumerate(zip(handed, told[id], strict=True), 1):
            same(where, f"hand-on {number} (who, to which role, instead, the hash of why)", one, other)


def check_signature(where, tenant, approval, decision):
    """Whether the approver's own signature, if there is one, is over this decision: "checked", "unchecked" without its key, or None."""
    if decision["signature"] is None:
        return None
    try:
        head, body, mark = decision["signature"].split(".")
        header, statement = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (head, body))
        kid = json.loads(header)["kid"]
        raw = base64.urlsafe_b64decode(mark + "=" * (-len(mark) % 4))
    except (ValueError, KeyError, TypeError):
        raise Wrong(where, "a signature of a decision has another form") from None
    said = {"approval": approval["id"], "approver": decision["approver"], "decided_for": "mission-root",
            "payload_sha256": approval["payload_sha256"], "tenant": tenant, "verdict": decision["verdict"]}  # fmt: skip
    need(statement == canonical(said).encode(), where, "a signature is over another decision")
    if kid not in decision["keys"]:  # a key that was revoked since is not handed out any more
        return "unchecked"
    genuine = signed(bytes.fromhex(decision["keys"][kid]), raw, f"{head}.{body}".encode())
    need(genuine, where, "a signature of a decision is not genuine")
    return "checked"


def check_writebacks(files, facts, approvals, artifacts, mission):
    """What was proposed is what was shown; what was approved is what was executed is what was read back."""
    found = {}
    for where, said in files.lines("writebacks.jsonl"):
        need(said["id"] not in found, where, "stands twice")
        same(where, "the hash of its payload", said["payload_sha256"], sha256(said["payload"].encode()))
        need(said["approval_id"] in approvals, where, "its approval is missing")
        _, approval = approvals[said["approval_id"]]
        same(where, "the writeback that was approved", approval["writeback_id"], said["id"])
        same(where, "the hash that was approved", approval["payload_sha256"], said["payload_sha256"])
        payload = loaded(where, said["payload"])
        same(where, "the payload that was shown", approval["payload"], payload)
        same(where, "the mission", said["mission_id"], mission)
        for member in ("connector", "operation"):
            same(where, f"the {member}", said[member], payload[member])
        same(where, "the target", said["target"], f"{payload['target']['kind']}/{payload['target']['id']}")
        for member in ("approvals", "predecessor"):
            same(where, f"its {member}", said[member], approval[member])
        same(where, "the hash of what was read back", said["read_back_sha256"], said["observed_sha256"])
        check_proposal(where, said, approval, payload, artifacts)
        need(
            said["observed"] is None or sha256(said["observed"].encode()) == said["observed_sha256"],
            where,
            "what was read back has another hash",
        )
        found[said["id"]] = where, said
    claimed, settled = {}, {}
    for fact in facts.all:
        body = fact["body"]
        id = body.get("writeback")
        if id is None:
            continue
        need(id in found, "writebacks.jsonl", f"writeback {id}, which {fact['where']} names, is missing")
        where, said = found[id]
        if fact["type"] == "writeback.claimed":
            same(where, "the idempotency key", said["idempotency_key"], body["idempotency_key"])
            same(where, "the hash that was executed", said["payload_sha256"], body["payload_sha256"])
            need(approvals[body["approval"]][1]["state"] == "approved", where, "was executed without an approval")
            claimed[id] = fact
        elif fact["type"] == "writeback.settled":
            settled[id] = fact
    for id, (where, said) in found.items():
        need(
            (said["idempotency_key"] is not None) == (id in claimed),
            where,
            "whether it was executed is not what the facts say",
        )
        if id in settled:
            body, word = settled[id]["body"], loaded(where, said["receipt"]) if said["receipt"] else {}
            same(where, "the state", said["state"], body["state"])
            same(where, "the hash of what was read back", said["observed_sha256"], body["observed_sha256"])
            same(where, "the number of attempts", said["attempts"], body["attempts"])
            same(where, "what a human vouched for", word.get("vouched"), body.get("vouched"))
            if "vouched" in body:
                same(where, "who vouched for it", f"principal:{word.get('by')}", settled[id]["actor"])
                same(where, "the hash of why", hash_of(word.get("comment")), body["comment_sha256"])
            same_bytes = said["observed"] == said["payload"]
            need(
                said["state"] != "succeeded" or same_bytes,
                where,
                "succeeded, and what was read back is not what was approved",
            )
        else:
            need(
                said["state"] not in ("succeeded", "failed", "stale") and said["observed"] is None,
                where,
                "no fact says that it was settled",
            )
    return found


def check_proposal(where, said, approval, payload, artifacts):
    """What the colony proposed, in the bytes that were stored, unless retention has removed them."""
    need(said["proposal_id"] in artifacts, where, "no fact names its proposal")
    name, content = artifacts[said["proposal_id"]]
    need(name.startswith("artifacts/writeback_proposal."), where, "its proposal is something else")
    if content is not None:
        for member in ("connector", "operation", "target"):
            same(where, f"the {member} that was proposed", said[member], content[member])
        if said["predecessor"] is None:
            same(where, "the changes that were proposed", payload["changes"], content["changes"])
    same_words(where, approval, content)


def check_asked(approvals, artifacts):
    """What was asked about the mission itself, in the bytes that were stored, unless retention has removed them."""
    for where, said in approvals.values():
        if said["subject"] != "mission":
            continue
        asked = said["payload"]
        held = [name for name, content in artifacts.values() if content == asked]
        need(asked is None or any(name.endswith(f".{said['payload_sha256']}.json") for name in held), where,
             "asks what was not stored")  # fmt: skip
        same_words(where, said, asked)


def same_words(where, approval, content):
    content = content or {}
    same(where, "the summary", approval["summary"], content.get("summary") or content.get("reason"))
    same(where, "the rationale", approval["rationale"], content.get("rationale"))
    same(where, "the evidence", approval["evidence"], content.get("evidence", []))


# --- the packet itself


def check_packet(files, facts, artifacts, review, approvals, writebacks, policy, mission):
    name = "packet.json"
    packet = loaded(name, files.read(name))
    same(name, "the mission", packet["mission"]["id"], mission)
    states = [
        fact["type"][8:] for fact in facts.all if fact["type"].startswith("mission.") and fact["type"][8:] in STATES
    ]
    same(name, "the mission's state", packet["mission"]["state"], states[-1])
    for shown, fact in zip(packet["timeline"], facts.all, strict=False):  # it shows the first
        said = {"id": fact["position"], "seq": fact["seq"], "type": fact["type"], "at": fact["at"], "actor": fact["actor"],
                "subject": fact["subject"], "body": fact["body"]}  # fmt: skip
        same(name, f"fact {fact['seq']} of the timeline", shown, said)
    need(
        len(packet["timeline"]) == min(len(facts.all), 2000),
        name,
        "the timeline has more or fewer facts than the ledger",
    )
    for one in packet["artifacts"]:
        held = artifacts.get(one["id"], (None, None))[0]
        need(
            held == f"artifacts/{one['schema_name']}.{one['sha256']}.json", name, f"artifact {one['id']} is another one"
        )
    kept = [content for _, content in artifacts.values() if content]
    envelope = next((content for content in kept if content["schema_name"] == "mission_envelope"), None)
    for member in ("user_goal", "mission_type", "mode", "risk_level", "sensitivity_class"):
        if member in packet["mission"] and envelope is not None:
            same(name, member, packet["mission"][member], envelope[member])
    for where, said in approvals.values():
        same(where, "the type of its mission", said["mission_type"], packet["mission"]["mission_type"])
    for part, known in (("approvals", approvals), ("writebacks", writebacks), ("policy_decisions", policy)):
        check_shown(name, part, packet[part], known)
    check_answer(name, packet, artifacts, review)
    return packet


def check_shown(name, part, shown, known):
    """What it shows of one kind is all of that, and in every member what the file of that kind says."""
    most = 500 if part == "policy_decisions" else 1000
    need(len(shown) == min(len(known), most), name, f"it shows other {part}")
    need(len({one["id"] for one in shown}) == len(shown), name, f"one of its {part} stands twice")
    for one in shown:
        need(one["id"] in known, name, f"one of its {part} is in no other file")
        full, what = known[one["id"]][1], f"{part} {one['id']}"
        same(name, f"{what}: its members", sorted(one), sorted(set(full) - BESIDE[part]))
        for member in sorted(one):
            said = full[member]
            if member == "decisions":
                said = [{name: vote[name] for name in DECISION} for vote in said]
            elif member == "read_back":
                said = json.loads(full["observed"])["changes"] if full["observed"] else None
            elif part == "writebacks" and member in ("payload", "receipt"):
                said = json.loads(said) if said is not None else None
            same(name, f"{what}: {member}", one[member], said)


def check_answer(name, packet, artifacts, review):
    """What it shows as answered and reviewed is what the artifacts say."""
    same(name, "whether there was a review", packet["review"] is not None, review is not None)
    if review is not None:
        for member in (
            "verdict",
            "coverage",
            "problems",
            "minimum",
            "sources",
            "age",
            "trust",
            "contradictions",
            "left_uncompared",
        ):
            same(name, f"the review's {member}", packet["review"][member], review.get(member))
        claims = [
            (
                one["claim_id"],
                one["text"],
                one["supported"],
                [{**c["citation"], "verified": c["verified"], "problem": c["problem"]} for c in one["citations"]],
            )
            for one in review["claims"]
        ]
        shown = [(one["id"], one["text"], one["supported"], one["citations"]) for one in packet["claims"]]
        need(len(shown) == len(claims), name, "it shows other claims than were reviewed")
        for one, other in zip(shown, claims, strict=True):
            same(name, f"claim {other[0]}", list(one), list(other))
    kept = [content for _, content in artifacts.values() if content]
    aggregations = [content for content in kept if content["schema_name"] == "aggregation_packet"]
    if aggregations:
        need(
            any(one["answer"] == packet["answer"] for one in aggregations),
            name,
            "the answer is none that the mission gave",
        )
    else:
        same(name, "the answer", packet["answer"], " ".join(claim["text"] for claim in packet["claims"]))


def verify(place, given=None, revoked=(), without_anchors=False):
    """The verdict over a packet, as a dict."""
    told: dict = {
        "holds": False,
        "wrong": None,
        "mission": None,
        "files": 0,
        "facts": 0,
        "covered": 0,
        "anchored_at": None,
        "keys_given": bool(given),
    }
    try:
        files = Files(place)
        manifest = check_manifest(files)
        told.update(mission=manifest["mission"], files=len(files.names), manifest_sha256=sha256(files.read(MANIFEST)))
        facts = Facts(dict(given or {}), frozenset(revoked))
        facts.read(files, manifest)
        artifacts = check_artifacts(files, facts, manifest["mission"])
        shown = check_sources(files)
        review, citations = check_review(files, facts, artifacts, shown)
        policy = check_policy(files, facts)
        approvals, signatures = check_approvals(files, facts, manifest["mission"], manifest["tenant"])
        check_asked(approvals, artifacts)
        writebacks = check_writebacks(files, facts, approvals, artifacts, manifest["mission"])
        packet = check_packet(files, facts, artifacts, review, approvals, writebacks, policy, manifest["mission"])
        told.update(
            facts=len(facts.all), covered=facts.covered, anchored_at=facts.anchor["at"] if facts.anchor else None,
            state=packet["mission"]["state"], artifacts=len(artifacts), removed=sum(content is None for _, content in artifacts.values()),
            citations=citations, policy_decisions=len(policy),
            approvals=len(approvals), signatures=signatures.count("checked"), signatures_unchecked=signatures.count("unchecked"),
            writebacks=len(writebacks), vouched=sum("vouched" in fact["body"] for fact in facts.all if fact["type"] == "writeback.settled"),
        )  # fmt: skip
        if not facts.covered and not without_anchors:
            raise Wrong("ledger/facts.jsonl", "no anchor signs any of it yet (--without-anchors takes the chain alone)")
        told["holds"] = True
    except Wrong as wrong:
        told["wrong"] = {"where": wrong.where, "what": wrong.what}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, StopIteration) as broken:
        told["wrong"] = {
            "where": "the packet",
            "what": f"has another form than it may have ({type(broken).__name__}: {str(broken)[:80]})",
        }
    return told


def printed(told):
    """The verdict as a person reads it; in ASCII: a hostile file may hold what no terminal takes."""
    if told["wrong"]:
        return [ascii(f"DOES NOT HOLD: {told['wrong']['where']}: {told['wrong']['what']}")[1:-1]]
    tail = told["facts"] - told["covered"]
    signed_by = (
        f"an anchor of {told['anchored_at']} signs {told['covered']}" if told["covered"] else "no anchor signs any"
    )
    return [
        ascii(f"Mission {told['mission']}, {told['state']}")[1:-1],
        f"  {told['files']} files, each as the manifest names it (manifest {told['manifest_sha256']})",
        f"  {told['facts']} facts in one chain; {signed_by}" + (f", {tail} came after it" if told["covered"] and tail else ""),
        f"  {told['artifacts'] - told['removed']} artifacts as they were stored; {told['citations']} citations read again in their sources"
        + (f"; {told['removed']} artifacts were removed under retention, as its facts say" if told["removed"] else ""),
        f"  {told['policy_decisions']} policy decisions, {told['approvals']} approvals ({told['signatures']} decisions signed, and genuine"
        + (f"; {told['signatures_unchecked']} signed by a key that is not here, and not checked)" if told["signatures_unchecked"] else ")"),
        f"  {told['writebacks']} writebacks: what was approved is what was executed and read back"
        + (f"; but for {told['vouched']} that a human's word ended" if told["vouched"] else ""),
        "  the keys are those you gave" if told["keys_given"] else "  the keys are the packet's own word: give yours with --key",
        "HOLDS",
    ]  # fmt: skip


def main(arguments=None):
    said = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    said.add_argument("packet", nargs="?", default=str(pathlib.Path(__file__).resolve().parent))
    said.add_argument("--key", action="append", default=[], metavar="KID:BASE64", help="a public key you trust")
    said.add_argument("--revoked", action="append", default=[], metavar="KID", help="a key you trust no longer")
    said.add_argument("--without-anchors", action="store_true", help="take a chain that no anchor signs")
    said.add_argument("--json", action="store_true", help="the verdict as JSON")
    asked = said.parse_args(arguments)
    try:
        given = {one.partition(":")[0]: public_key("--key", one.partition(":")[2]) for one in asked.key}
        told = verify(asked.packet, given, asked.revoked, asked.without_anchors)
    except (OSError, ValueError, Wrong, zipfile.BadZipFile) as wrong:
        print(ascii(f"verify: {wrong}")[1:-1], file=sys.stderr)
        return 2
    print(json.dumps(told) if asked.json else "\n".join(printed(told)))
    return 0 if told["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
