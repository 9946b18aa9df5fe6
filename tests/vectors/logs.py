"""Records of logs: what each principal did."""

import json

from acts import ONCE, SIGNATURE, UNKNOWN
from corpus import Corpus
from encode import DATASET, KIB, SNAPSHOT, VAULT, line
from manifest_parts import DIGEST, DIGESTS, NUMBERS, TIMES, WORD

LOG = "drill-hosts/drill1"
NUMBER = 7
RESTORE = {
    "what": "restore",
    "dataset": DATASET,
    "snapshot": "latest",
    "target": "/srv/restored",
    "user": "root (uid 0)",
    "unrecorded": False,
}
EVENTS = {
    "restore": RESTORE,
    "drill": {"what": "drill", "dataset": DATASET, "snapshot": SNAPSHOT, "user": "uid 7", "unrecorded": True},
    "commit": {"what": "commit", "dataset": DATASET, "number": 9, "blake3": DIGEST},
    "mark": {"what": "mark", "dataset": DATASET, "id": SNAPSHOT, "blake3": DIGEST},
    "sweep": {"what": "sweep", "dataset": DATASET, "id": SNAPSHOT, "blake3": DIGEST},
    "keyring": {"what": "keyring", "user": "root (uid 0)"},
    "root": {"what": "root", "version": 2, "blake3": DIGEST},
    "configuration": {"what": "configuration", "blake3": DIGEST},
}


def head(kind: str, name: str, number: int = 3) -> dict:
    return {"kind": kind, "name": name, "number": number, "blake3": DIGEST}


def seen(dataset: str, number: int = 9) -> dict:
    return {"dataset": dataset, "number": number, "blake3": DIGEST}


def record(**changes: object) -> dict:
    return {
        "requires": [],
        "vault": VAULT,
        "kind": "drill-hosts",
        "principal": "drill1",
        "number": NUMBER,
        "previous": DIGEST,
        "time": "2026-11-29T08:05:00Z",
        "event": RESTORE,
        "why": "the disk is broken",
        "heads": [head("hosts", "db1"), head("drill-hosts", "drill2"), head("owners", "ann")],
        "acts": [seen(DATASET)],
    } | changes


def stored(json_line: bytes, number: int = NUMBER) -> bytes:
    """A record as it is stored."""
    return json_line + SIGNATURE.replace(f"datasets/{DATASET}/{{}}", "{}").format(f"log/{LOG}/{number}.record").encode()


def place(number: int = NUMBER) -> dict:
    return {"vault": VAULT, "log": LOG, "number": number}


def add(corpus: Corpus) -> None:
    def good(name: str, told: dict) -> None:
        number = told["number"]
        key = f"log/{LOG}/{number}.record"
        corpus.good("log", name, stored(line(told), number), place(number), object=key)

    def bad(name: str, rule: str, word: str = "", **changes: object) -> None:
        corpus.bad("log", name, stored(line(record(**changes))), rule, place(), word)

    def bad_line(name: str, rule: str, json_line: bytes, number: int = NUMBER) -> None:
        corpus.bad("log", name, stored(json_line, number), rule, place(number))

    for name, event in EVENTS.items():
        good(name, record(event=event))
        for field in event:
            broken = {known: value for known, value in event.items() if known != field}
            bad(f"{name}-without-{field}", f"`{field}` of a {name} may not be missing", event=broken)
    good("first", record(number=1, previous=None))
    good("newest", record(number=2**63 - 1))
    good("nothing-seen", record(heads=[], acts=[]))
    good("unknown-event", record(event={"what": "song", "tune": [1.5, None]}))
    good("unknown-fields", record(new={"a": 1.5}, event=RESTORE | {"new": None}))
    without_why = record()
    del without_why["why"]
    good("without-why", without_why)
    good("why-1024", record(why="ä" * 512))
    good("heads-1024", record(heads=[head("hosts", f"h{at:04}") for at in range(1024)]))
    good("acts-1024", record(acts=[seen(f"d{at:04}") for at in range(1024)]))

    def long(size: int) -> bytes:
        room = size - len(stored(line(record(new=""))))
        return stored(line(record(new="x" * room)))

    corpus.good("log", "512-kib", long(512 * KIB), place(), object=f"log/{LOG}/{NUMBER}.record")
    corpus.bad("log", "above-512-kib", long(512 * KIB + 1), "a record has at most 512 KiB", place())

    for field in record():
        if field != "why":
            changed = record()
            del changed[field]
            bad_line(f"without-{field}", f"`{field}` may not be missing", line(changed))
    bad("other-vault", "the record belongs to the vault", vault=VAULT[::-1])
    bad("other-kind", "the record belongs to the kind", kind="hosts")
    bad("unknown-kind", "the record belongs to the kind", kind="kings")
    bad("other-principal", "the record belongs to the principal", principal="drill2")
    bad("other-number", "the record has the number of its name", number=NUMBER + 1)
    bad_line("number-0", "numbers count from 1", line(record(number=0)), 0)
    bad_line("number-2-to-63", NUMBERS, line(record(number=2**63)), 2**63)
    for name, number in [("negative", -7), ("decimal", 7.0), ("text", "7"), ("null", None)]:
        bad(f"number-{name}", NUMBERS, number=number)
    bad("previous-null", "`previous` is null for the first alone", previous=None)
    bad_line("first-with-previous", "`previous` is null for the first alone", line(record(number=1)), 1)
    for name, digest in [("short", DIGEST[1:]), ("upper-case", DIGEST.upper()), ("number", 5)]:
        bad(f"previous-{name}", DIGESTS, previous=digest)
    bad("requires-unknown", UNKNOWN, WORD, requires=[WORD])
    bad("requires-unknown-event", UNKNOWN, WORD, requires=[WORD], event=7)
    bad("requires-null", "`requires` is a list of words", requires=None)
    for name, time in [("offset", "2026-11-29T08:05:00+00:00"), ("no-zone", "2026-11-29T08:05:00"), ("number", 5)]:
        bad(f"time-{name}", TIMES, time=time)
    for name, event in [("text", "restore"), ("null", None), ("array", [*RESTORE.values()]), ("empty", {})]:
        bad(f"event-{name}", "`event` is an object with `what`", event=event)
    bad("event-dataset", "names are 1 to 64 of a-z 0-9 - _ .", event=RESTORE | {"dataset": "../x"})
    bad("event-unrecorded", "`unrecorded` is true or false", event=RESTORE | {"unrecorded": "no"})
    bad("event-target-1025", "texts have at most 1,024 bytes", event=RESTORE | {"target": "x" * 1025})
    bad("why-null", "`why` may be missing, but not null", why=None)
    bad("why-1025", "texts have at most 1,024 bytes", why="x" + "ä" * 512)
    db1, ann = head("hosts", "db1"), head("owners", "ann")
    for name, heads in [("null", None), ("object", {}), ("array-inside", [[*db1.values()]])]:
        bad(f"heads-{name}", "`heads` is an array of objects", heads=heads)
    bad("heads-unsorted", "`heads` are sorted", heads=[ann, db1])
    bad("heads-twice", "each log stands once in `heads`", heads=[db1, db1 | {"number": 4}])
    bad("heads-own", "`heads` are of other logs", heads=[head("drill-hosts", "drill1")])
    bad("heads-number-0", "numbers count from 1", heads=[db1 | {"number": 0}])
    bad("heads-kind", "a kind is hosts, drill-hosts or owners", heads=[db1 | {"kind": "kings"}])
    bad("heads-1025", "a record has at most 1,024 heads", heads=[head("hosts", f"h{at:04}") for at in range(1025)])
    bad("acts-null", "`acts` is an array", acts=None)
    bad("acts-unsorted", "`acts` are sorted", acts=[seen("b"), seen("a")])
    bad("acts-twice", "each dataset stands once in `acts`", acts=[seen("a"), seen("a", 10)])
    bad("acts-number-0", "numbers count from 1", acts=[seen("a", 0)])
    bad("acts-1025", "a record has acts of at most 1,024 datasets", acts=[seen(f"d{at:04}") for at in range(1025)])

    usual = line(record())
    bad_line("number-twice", ONCE, usual.replace(b'"number":7', b'"number":7,"number":7'))
    bad_line("event-twice", ONCE, usual.replace(b'"event":', b'"event":{},"event":'))
    bad_line("target-twice", ONCE, usual.replace(b'"target":', b'"target":"a","target":'))
    bad_line("what-twice", ONCE, usual.replace(b'"what":', b'"what":"drill","what":'))
    bad_line("lines", "the JSON stands on one line", json.dumps(record(), indent=2).encode() + b"\n")
    bad_line("array", "the JSON is an object", line([*record().values()]))
    bad_line("twice", "nothing follows the JSON", usual[:-1] + usual)
    bad_line("cut", "the JSON is whole", usual[:-2] + b"\n")
    bad_line("not-utf-8", "the JSON is UTF-8", usual.replace(b"{", b'{"new":"\xff",', 1))
    corpus.bad("log", "no-line-feed", usual[:-1], "a line feed ends the line", place())
    corpus.bad("log", "nothing", b"", "a line feed ends the line", place())
