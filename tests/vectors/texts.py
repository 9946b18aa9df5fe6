"""What is not encrypted, or is text: records, `vault.json`, keyring objects."""

import copy
import json

from corpus import Corpus
from encode import DATASET, EARLIER, KIB, LATER, MIB, SNAPSHOT, VAULT
from manifest_parts import DIGEST, DIGESTS, NUMBERS, TIMES, WORD

IDENTITY = "AGE-SECRET-KEY-1EHJ7ZAFFFV7E5GLPM0HSTE8L465ZA9SM3WW38GWTNK75CP8VJYHQJWARHC"
DRILL = {
    "version": 1,
    "drill": "20261129T040000000Z-11111111",
    "vault": VAULT,
    "dataset": DATASET,
    "snapshot": SNAPSHOT,
    "engine": "sqlite 3.54.1",
    "started": "2026-11-29T04:00:00Z",
    "finished": "2026-11-29T04:00:01Z",
    "replicas_used": ["attic"],
    "replicas_unreachable": {},
    "required": "proved",
    "reached": "proved",
    "passed": True,
    "error": None,
    "phases": [{"phase": "select", "seconds": 0.25}],
    "restored_bytes": 20480,
    "rto_seconds": 0.5,
    "rpo_seconds": 57600.0,
    "rto_objective_seconds": None,
    "rpo_objective_seconds": None,
    "checks": [{"check": "integrity_check", "passed": True, "detail": "ok"}],
    "proof": {"definitions": 10, "tables": 2, "rows": 80, "large_objects": 0, "differences": []},
}


def add(corpus: Corpus) -> None:
    add_records(corpus)
    add_removed(corpus)
    add_vault(corpus)
    add_keyring(corpus)


def place(kind: str = "prune") -> dict:
    return {"vault": VAULT, "dataset": DATASET, "type": kind}


def prune() -> dict:
    return {
        "type": "prune",
        "requires": [],
        "vault": VAULT,
        "dataset": DATASET,
        "principal": "db1",
        "sequence": 2,
        "previous": {"record": "20261128T130000000Z-22222222", "blake3": DIGEST},
        "time": "2026-11-30T12:00:00Z",
        "body": {"removed": [{"snapshot": EARLIER, "blake3": DIGEST}, {"snapshot": SNAPSHOT, "blake3": None}]},
    }


def text(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def add_records(corpus: Corpus) -> None:
    def good(name: str, data: bytes, kind: str = "prune") -> None:
        corpus.good("record", name, data, place(kind))

    def bad(name: str, rule: str, word: str = "", **fields: object) -> None:
        corpus.bad("record", name, text(prune() | fields), rule, place(), word)

    def bad_text(name: str, rule: str, data: bytes, kind: str = "prune") -> None:
        corpus.bad("record", name, data, rule, place(kind))

    usual = text(prune())
    good("prune", usual)
    good("first", text(prune() | {"sequence": 1, "previous": None}))
    good("lines", json.dumps(prune(), indent=2).encode() + b"\n")
    drill = prune() | {"type": "drill", "principal": "drill1", "sequence": 1, "previous": None, "body": DRILL}
    good("drill", text(drill), "drill")
    grown = prune() | {"new": {"a": [1.5, None]}}
    grown["previous"]["new"] = grown["body"]["new"] = grown["body"]["removed"][0]["new"] = -1
    good("unknown-fields", text(grown))
    good("16-mib", usual[:1] + b" " * (16 * MIB - len(usual)) + usual[1:])
    bad_text("above-16-mib", "a record has at most 16 MiB", usual[:1] + b" " * (16 * MIB + 1 - len(usual)) + usual[1:])

    for field in prune():
        changed = prune()
        del changed[field]
        bad_text(f"without-{field}", f"`{field}` may not be missing", text(changed))
    first = prune() | {"sequence": 1}
    del first["previous"]
    bad_text("first-without-previous", "`previous` of the first is null", text(first))
    bad_text("of-another-type", "the record has the type of its folder", usual, "drill")
    bad_text("drill-as-prune", "the record has the type of its folder", text(drill))
    bad("unknown-type", "`type` is prune, mark or drill", type="burial")
    bad("other-vault", "the record belongs to the vault", vault=VAULT[::-1])
    bad("other-dataset", "the record belongs to the dataset", dataset="shop2")
    unknown = "readers refuse a word that they do not know"
    bad("requires-unknown", unknown, WORD, requires=[WORD])
    bad("requires-unknown-body", unknown, WORD, requires=[WORD], body="of another shape")
    bad("requires-bad-word", "words are of a-z 0-9 -", requires=["A word"])
    bad("requires-65-words", "`requires` has at most 64 words", requires=[f"word-{number}" for number in range(65)])
    bad("requires-null", "`requires` is a list of words", requires=None)
    for name, principal in [("upper-case", "Db1"), ("empty", ""), ("dash", "-db1"), ("65", "d" * 65), ("slash", "d/b")]:
        bad(f"principal-{name}", "names are 1 to 64 of a-z 0-9 - _ .", principal=principal)
    for name, sequence in [("negative", -2), ("fraction", 2.5), ("decimal", 2.0), ("2-to-63", 2**63), ("text", "2")]:
        bad(f"sequence-{name}", NUMBERS, sequence=sequence)
    bad("sequence-0", "sequences count from 1", sequence=0)
    bad("sequence-0-first", "sequences count from 1", sequence=0, previous=None)
    bad("sequence-1-with-previous", "only the first has no predecessor", sequence=1)
    bad("sequence-2-without-previous", "only the first has no predecessor", previous=None)
    previous = prune()["previous"]
    for field in previous:
        bad(
            f"previous-without-{field}",
            f"`{field}` may not be missing",
            previous={k: v for k, v in previous.items() if k != field},
        )
    bad(
        "previous-id",
        "a record's id is a time and 8 digits",
        previous=previous | {"record": "20261328T130000000Z-22222222"},
    )
    bad("previous-blake3", DIGESTS, previous=previous | {"blake3": DIGEST[:-1]})
    bad("previous-blake3-null", DIGESTS, previous=previous | {"blake3": None})
    bad("previous-array", "`previous` is an object or null", previous=list(previous.values()))
    for name, time in [
        ("offset", "2026-11-30T12:00:00+00:00"),
        ("no-zone", "2026-11-30T12:00:00"),
        ("month", "2026-13-30T12:00:00Z"),
        ("number", 5),
    ]:
        bad(f"time-{name}", TIMES, time=time)
    once = "a field stands in an object only once"
    bad_text("sequence-twice", once, usual.replace(b'"sequence":2', b'"sequence":2,"sequence":2'))
    bad_text("removed-twice", once, usual.replace(b'"removed":', b'"removed":[],"removed":'))
    bad_text("twice", "nothing follows the JSON", usual + usual)
    bad_text("trailing", "nothing follows the JSON", usual + b"\0")
    bad_text("cut", "the JSON is whole", usual[:-1])
    bad_text("nothing", "the JSON is an object", b"")
    bad_text("array", "the JSON is an object", text([*prune().values()]))
    bad_text("not-utf-8", "the JSON is UTF-8", usual.replace(b"{", b'{"new":"\xff",', 1))


def add_removed(corpus: Corpus) -> None:
    """What only a reader of prune records finds."""

    def bad(name: str, rule: str, body: object) -> None:
        corpus.bad("record", name, text(prune() | {"body": body}), rule, place())

    def removed(name: str, rule: str, *entries: object) -> None:
        bad(f"removed-{name}", rule, {"removed": list(entries)})

    one, two = prune()["body"]["removed"]
    three = {"snapshot": LATER, "blake3": DIGEST}
    removed("unsorted", "`removed` is sorted by snapshot", two, one)
    removed("unsorted-end", "`removed` is sorted by snapshot", one, three, two)
    removed("snapshot-twice", "`removed` names each snapshot only once", one, one)
    removed("snapshot-twice-differently", "`removed` names each snapshot only once", one, one | {"blake3": None})
    removed("id", "a snapshot id is a time and 8 digits", one, {"snapshot": "latest", "blake3": None})
    removed("blake3", DIGESTS, one | {"blake3": DIGEST.upper()})
    removed("without-blake3", "`blake3` may not be missing", {"snapshot": EARLIER})
    removed("without-snapshot", "`snapshot` may not be missing", {"blake3": DIGEST})
    removed("text", "`removed` has objects", EARLIER)
    removed("array", "`removed` has objects", [EARLIER, DIGEST])
    bad("body-empty", "`removed` may not be missing", {})
    bad("body-array", "`body` is an object", [[one, two]])


def add_vault(corpus: Corpus) -> None:
    usual = {"format": 2, "requires": [], "vault": VAULT, "created": "2026-11-28T09:28:03Z"}

    def bad(name: str, rule: str, word: str = "", **fields: object) -> None:
        corpus.bad("vault", name, text(usual | fields), rule, None, word)

    whole = text(usual)
    corpus.good("vault", "usual", whole)
    corpus.good("vault", "lines", json.dumps(usual, indent=2).encode() + b"\n")
    corpus.good("vault", "unknown-fields", text(usual | {"new": [None]}))
    corpus.good("vault", "64-kib", whole[:1] + b" " * (64 * KIB - len(whole)) + whole[1:])
    larger = whole[:1] + b" " * (64 * KIB + 1 - len(whole)) + whole[1:]
    corpus.bad("vault", "above-64-kib", larger, "vault.json has at most 64 KiB")
    for field in usual:
        changed = copy.deepcopy(usual)
        del changed[field]
        corpus.bad("vault", f"without-{field}", text(changed), f"`{field}` may not be missing")
    bad("format-3", "readers know formats 1 and 2", format=3)
    bad("format-0", "readers know formats 1 and 2", format=0)
    bad("format-text", NUMBERS, format="2")
    bad("format-decimal", NUMBERS, format=2.0)
    bad("requires-unknown", "readers refuse a word that they do not know", WORD, requires=[WORD])
    bad("requires-bad-word", "words are of a-z 0-9 -", requires=["A word"])
    for name, vault in [
        ("short", VAULT[1:]),
        ("long", VAULT + "0"),
        ("letters", "g" * 32),
        ("upper-case", VAULT.upper()),
        ("empty", ""),
    ]:
        bad(f"id-{name}", "a vault is 32 lower-case hexadecimal digits", vault=vault)
    bad("created-offset", TIMES, created="2026-11-28T10:28:03+01:00")
    bad("created-no-zone", TIMES, created="2026-11-28T09:28:03")
    corpus.bad(
        "vault",
        "field-twice",
        whole.replace(b'"format":2', b'"format":2,"format":2'),
        "a field stands in an object only once",
    )
    corpus.bad("vault", "trailing", whole + b"x", "nothing follows the JSON")
    corpus.bad("vault", "cut", whole[:-1], "the JSON is whole")


def add_keyring(corpus: Corpus) -> None:
    here = {"vault": VAULT, "dataset": DATASET, "generation": 12}
    key = bytes(range(32)).hex()

    def keyring(**changes: str | None) -> bytes:
        fields = {"vault": VAULT, "dataset": DATASET, "generation": "12", "chunk-id-key": key} | changes
        head = fields.pop("head", "# lifeboat dataset key")
        identity = fields.pop("identity", IDENTITY)
        told = [f"# {name}: {value}" for name, value in fields.items() if value is not None]
        return "".join(f"{one}\n" for one in [head, *told, identity] if one is not None).encode()

    def bad(name: str, rule: str, **changes: str | None) -> None:
        corpus.bad("keyring", name, keyring(**changes), rule, here)

    corpus.good("keyring", "usual", keyring(), here)
    corpus.good("keyring", "generation-1", keyring(generation="1"), here | {"generation": 1})
    bad("other-vault", "the object belongs to the vault", vault=VAULT[::-1])
    bad("other-dataset", "the object belongs to the dataset", dataset="shop2")
    bad("other-generation", "the object belongs to the generation", generation="1")
    bad("generation-zero-first", "numbers have their shortest form", generation="012")
    bad("generation-sign", "numbers have their shortest form", generation="+12")
    corpus.bad("keyring", "generation-0", keyring(generation="0"), "generations count from 1", here | {"generation": 0})
    for field in ("vault", "dataset", "generation", "chunk-id-key"):
        bad(f"without-{field}", f"`{field}` may not be missing", **{field: None})
    for name, wrong in [
        ("short", key[2:]),
        ("long", key + "00"),
        ("odd", key[1:]),
        ("upper-case", key.upper()),
        ("letters", "g" * 64),
    ]:
        bad(f"chunk-id-key-{name}", "a chunk-id key is 64 lower-case hexadecimal digits", **{"chunk-id-key": wrong})
    bad("without-identity", "the object holds an age identity", identity=None)
    bad("of-a-host", "a dataset's object begins with its own first line", head="# lifeboat operations key")
    bad("without-first-line", "a dataset's object begins with its own first line", head=None)
    twice = keyring().replace(b"# generation: 12\n", b"# generation: 12\n# generation: 13\n")
    corpus.bad("keyring", "field-twice", twice, "a field stands in an object only once", here)
    corpus.bad("keyring", "not-utf-8", keyring().replace(b"\n", b"\n# \xff\n", 1), "the object is text", here)
    corpus.bad("keyring", "nothing", b"", "a dataset's object begins with its own first line", here)
