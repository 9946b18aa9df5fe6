"""Roots: who is trusted, as JSON that owners sign."""

import base64
import copy
import json

from corpus import Corpus
from encode import KIB, VAULT
from manifest_parts import DIGEST, NUMBERS, TIMES, WORD

TIME = "2026-11-29T04:00:00Z"


def signer(number: int) -> str:
    return base64.b64encode(b"Ed" + bytes([number]) * 40).decode()


def usual() -> dict:
    return {
        "requires": [],
        "vault": VAULT,
        "version": 2,
        "time": TIME,
        "previous": DIGEST,
        "threshold": 1,
        "owners": [{"name": "ann", "signer": signer(1)}, {"name": "bob", "signer": signer(2)}],
        "masters": ["age1ann", "age1bob"],
        "hosts": [
            {"name": "db1", "signer": signer(3), "operations": "age1db1", "datasets": ["shop", "eu-*"], "from": TIME},
            {"name": "db1", "signer": signer(4), "operations": "age1db1", "datasets": ["*"], "from": TIME, "until": TIME},
        ],
        "drill_hosts": [
            {"name": "drill", "recipient": "age1drill", "signer": signer(5), "datasets": ["*"], "from": TIME}
        ],
        "witnesses": ["drill"],
        "warden": {"name": "warden", "signer": signer(6)},
        "approvers": [{"name": "carol", "signer": signer(7)}],
        "floors": {"retention": 604800, "delay": 86400},
    }


def text(root: dict) -> bytes:
    return json.dumps(root, separators=(",", ":")).encode()


def add(corpus: Corpus) -> None:
    def good(name: str, **changes: object) -> None:
        corpus.good("root", name, text(usual() | changes))

    def bad(name: str, rule: str, **changes: object) -> None:
        corpus.bad("root", name, text(usual() | changes), rule)

    def host(**changes: object) -> list:
        return [usual()["hosts"][0] | changes]

    whole = text(usual())
    good("usual")
    good("first", version=1, previous=None)
    good("last", version=4096)
    good("nobody-works", hosts=[], drill_hosts=[], witnesses=[], approvers=[], floors={})
    good("unknown-fields", new=[None])
    corpus.good("root", "lines", json.dumps(usual(), indent=2).encode() + b"\n")
    without = usual()
    del without["warden"]
    corpus.good("root", "without-warden", text(without))
    corpus.good("root", "256-kib", whole[:1] + b" " * (256 * KIB - len(whole)) + whole[1:])
    larger = whole[:1] + b" " * (256 * KIB + 1 - len(whole)) + whole[1:]
    corpus.bad("root", "above-256-kib", larger, "a root has at most 256 KiB")
    for field in usual():
        if field != "warden":
            changed = copy.deepcopy(usual())
            del changed[field]
            corpus.bad("root", f"without-{field}", text(changed), f"`{field}` may not be missing")
    bad("requires-unknown", "readers refuse a word that they do not know", requires=[WORD])
    bad("vault-short", "a vault is 32 lower-case hexadecimal digits", vault=VAULT[1:])
    bad("version-0", "versions count from 1", version=0, previous=None)
    bad("version-4097", "no root has a version above 4,096", version=4097)
    bad("version-decimal", NUMBERS, version=2.0)
    bad("first-with-previous", "root 1 alone has no root before it", version=1)
    bad("second-without-previous", "root 1 alone has no root before it", previous=None)
    bad("time-offset", TIMES, time="2026-11-29T05:00:00+01:00")
    bad("threshold-0", "at least one owner must sign", threshold=0)
    bad("threshold-3", "no more owners than there are must sign", threshold=3)
    bad("no-masters", "there is a master", masters=[])
    bad("master-twice", "each master stands once", masters=["age1ann", "age1ann"])
    bad("owner-name-twice", "no two owners have one name", owners=[{"name": "ann", "signer": signer(n)} for n in (8, 9)])
    bad("owner-as-array", "objects are not written as arrays", owners=[["ann", signer(1)]])
    bad("signer-twice", "no signer stands in a root twice", hosts=host(signer=signer(1)))
    bad("signer-short", "a signer is a minisign public key", hosts=host(signer=signer(3)[4:]))
    bad("no-datasets", "a machine has a pattern", hosts=host(datasets=[]))
    bad("pattern-two-stars", "a pattern has one * at most", hosts=host(datasets=["a*b*"]))
    bad("pattern-upper-case", "a pattern is a name", hosts=host(datasets=["Shop"]))
    bad("pattern-65", "a machine has at most 64 patterns", hosts=host(datasets=["shop"] * 65))
    bad("until-null", "what may be missing is never null", hosts=host(until=None))
    bad("warden-null", "what may be missing is never null", warden=None)
    bad("retention-null", "what may be missing is never null", floors={"retention": None})
    bad("witness-unknown", "witnesses are drill hosts", witnesses=["db1"])
    bad("witness-twice", "each witness stands once", witnesses=["drill", "drill"])
    twice = whole.replace(b'"version":2', b'"version":2,"version":2')
    corpus.bad("root", "field-twice", twice, "a field stands in an object only once")
    corpus.bad("root", "trailing", whole + b"x", "nothing follows the JSON")
