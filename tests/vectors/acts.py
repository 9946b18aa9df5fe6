"""The order of a dataset: acts, marks, and what prune records say of acts, branches and times."""

import json

from corpus import Corpus
from encode import DATASET, EARLIER, KIB, LATER, SNAPSHOT, VAULT, line
from manifest_parts import DIGEST, DIGESTS, NUMBERS, TIMES, WORD

NUMBER = 7
FOLDER = f"datasets/{DATASET}"
# Nobody signed it: readers check signatures before they read what was signed.
SIGNATURE = (
    "untrusted comment: signature by lifeboat\n"
    + f"RUQ{'A' * 97}\n"
    + f"trusted comment: lifeboat {VAULT} {FOLDER}/{{}}\n"
    + f"{'A' * 86}==\n"
)
ONCE = "a field stands in an object only once"
UNKNOWN = "readers refuse a word that they do not know"


def add(corpus: Corpus) -> None:
    add_acts(corpus)
    add_marks(corpus)
    add_sweeps(corpus)


def act(**changes: object) -> dict:
    manifest = f"snapshots/{SNAPSHOT}.json.zst.age"
    return {
        "act": "commit",
        "requires": [],
        "vault": VAULT,
        "dataset": DATASET,
        "principal": "db1",
        "number": NUMBER,
        "previous": DIGEST,
        "time": "2026-11-28T12:05:00Z",
        "id": SNAPSHOT,
        "blake3": "d4" * 32,
        "signature": SIGNATURE.format(manifest),
    } | changes


def stored(json_line: bytes, number: int = NUMBER) -> bytes:
    """An act as it is stored."""
    return json_line + SIGNATURE.format(f"order/{number}.act").encode()


def act_place(number: int = NUMBER) -> dict:
    return {"vault": VAULT, "dataset": DATASET, "number": number}


def add_acts(corpus: Corpus) -> None:
    def good(name: str, told: dict, folder: str = "snapshots", end: str = ".json.zst.age") -> None:
        key = f"{FOLDER}/{folder}/{told['id']}{end}"
        corpus.good("act", name, stored(line(told), told["number"]), act_place(told["number"]), object=key)

    def bad(name: str, rule: str, word: str = "", **changes: object) -> None:
        corpus.bad("act", name, stored(line(act(**changes))), rule, act_place(), word)

    def bad_line(name: str, rule: str, json_line: bytes, number: int = NUMBER) -> None:
        corpus.bad("act", name, stored(json_line, number), rule, act_place(number))

    good("commit", act())
    good("mark", act(act="mark", signature=SIGNATURE.format(f"marks/{SNAPSHOT}.json")), "marks", ".json")
    good("sweep", act(act="sweep", signature=SIGNATURE.format(f"prunes/{SNAPSHOT}.json")), "prunes", ".json")
    good("first", act(number=1, previous=None))
    good("previous-unknown", act(previous=None))
    good("newest", act(number=2**63 - 1))
    good("nanoseconds", act(time="2026-11-28T12:05:00.123456789Z"))
    good("unknown-fields", act(new={"a": [1.5, None]}))

    def long(size: int) -> bytes:
        room = size - len(stored(line(act(new=""))))
        return stored(line(act(new="x" * room)))

    key = f"{FOLDER}/snapshots/{SNAPSHOT}.json.zst.age"
    corpus.good("act", "16-kib", long(16 * KIB), act_place(), object=key)
    corpus.bad("act", "above-16-kib", long(16 * KIB + 1), "an act has at most 16 KiB", act_place())

    for field in act():
        changed = act()
        del changed[field]
        bad_line(f"without-{field}", f"`{field}` may not be missing", line(changed))
    bad("unknown-act", "`act` is commit, mark or sweep", act="burial")
    bad("act-upper-case", "`act` is commit, mark or sweep", act="Commit")
    bad("act-null", "`act` is commit, mark or sweep", act=None)
    bad("other-vault", "the act belongs to the vault", vault=VAULT[::-1])
    bad("other-dataset", "the act belongs to the dataset", dataset="shop2")
    bad("other-number", "the act has the number of its name", number=NUMBER + 1)
    bad_line("number-0", "numbers of acts count from 1", line(act(number=0)), 0)
    bad_line("number-2-to-63", NUMBERS, line(act(number=2**63)), 2**63)
    for name, number in [("negative", -7), ("decimal", 7.0), ("text", "7"), ("null", None)]:
        bad(f"number-{name}", NUMBERS, number=number)
    bad("requires-unknown", UNKNOWN, WORD, requires=[WORD])
    bad("requires-unknown-act", UNKNOWN, WORD, requires=[WORD], act="burial", id=7, signature=None)
    bad("requires-bad-word", "words are of a-z 0-9 -", requires=["A word"])
    bad("requires-null", "`requires` is a list of words", requires=None)
    for name, principal in [("upper-case", "Db1"), ("empty", ""), ("slash", "d/b"), ("65", "d" * 65)]:
        bad(f"principal-{name}", "names are 1 to 64 of a-z 0-9 - _ .", principal=principal)
    for name, digest in [("short", DIGEST[1:]), ("upper-case", DIGEST.upper()), ("number", 5)]:
        bad(f"previous-{name}", DIGESTS, previous=digest)
        bad(f"blake3-{name}", DIGESTS, blake3=digest)
    bad("blake3-null", DIGESTS, blake3=None)
    for name, time in [("offset", "2026-11-28T12:05:00+00:00"), ("no-zone", "2026-11-28T12:05:00"), ("number", 5)]:
        bad(f"time-{name}", TIMES, time=time)
    for name, told in [("latest", "latest"), ("month", "20261328T120000000Z-0a1b2c3d"), ("path", f"../{SNAPSHOT}")]:
        bad(f"id-{name}", "an id is a time and 8 digits", id=told)
    bad("signature-null", "`signature` is a text", signature=None)
    bad("signature-lines", "`signature` is a text", signature=act()["signature"].split("\n"))

    usual = line(act())
    bad_line("number-twice", ONCE, usual.replace(b'"number":7', b'"number":7,"number":7'))
    bad_line("id-twice", ONCE, usual.replace(b'"id":', b'"id":"%s","id":' % EARLIER.encode()))
    bad_line("lines", "the JSON stands on one line", json.dumps(act(), indent=2).encode() + b"\n")
    bad_line("array", "the JSON is an object", line([*act().values()]))
    bad_line("twice", "nothing follows the JSON", usual[:-1] + usual)
    bad_line("trailing", "nothing follows the JSON", usual[:-1] + b"\0\n")
    bad_line("cut", "the JSON is whole", usual[:-2] + b"\n")
    bad_line("empty-line", "the first line is JSON", b"\n" + usual)
    bad_line("not-utf-8", "the JSON is UTF-8", usual.replace(b"{", b'{"new":"\xff",', 1))
    deep = b"[" * 128 + b"]" * 128
    bad_line("deep", "JSON is nested at most 128 deep", usual.replace(b"{", b'{"new":' + deep + b",", 1))
    corpus.bad("act", "no-line-feed", usual[:-1], "a line feed ends the line", act_place())
    corpus.bad("act", "nothing", b"", "a line feed ends the line", act_place())


def record(kind: str, body: object, **changes: object) -> bytes:
    told = {
        "type": kind,
        "requires": [],
        "vault": VAULT,
        "dataset": DATASET,
        "principal": "db1",
        "sequence": 2,
        "previous": {"record": "20261128T130000000Z-22222222", "blake3": DIGEST},
        "time": "2026-11-30T12:00:00Z",
        "body": body,
    }
    return line(told | changes)


def record_place(kind: str) -> dict:
    return {"vault": VAULT, "dataset": DATASET, "type": kind}


SNAPSHOTS = [{"snapshot": EARLIER, "blake3": DIGEST}, {"snapshot": SNAPSHOT, "blake3": None}]
PACKS = ["a2" * 32, "b1" * 32, "c3" * 32]
OBJECTS = [
    f"{FOLDER}/marks/{EARLIER}.json",
    f"{FOLDER}/prunes/{EARLIER}.json",
    f"{FOLDER}/snapshots/{LATER}.json.zst.age",
]


def mark(**changes: object) -> dict:
    return {"snapshots": SNAPSHOTS, "packs": PACKS, "objects": OBJECTS} | changes


def add_marks(corpus: Corpus) -> None:
    def good(name: str, body: dict) -> None:
        corpus.good("record", f"mark{name}", record("mark", body), record_place("mark"))

    def bad(name: str, rule: str, body: object, word: str = "", **changes: object) -> None:
        corpus.bad("record", f"mark-{name}", record("mark", body, **changes), rule, record_place("mark"), word)

    many = [f"{FOLDER}/marks/20261128T120000000Z-{number:08x}.json" for number in range(1025)]
    good("", mark())
    good("-without-objects", {"snapshots": SNAPSHOTS, "packs": PACKS})
    good("-of-nothing", {"snapshots": [], "packs": []})
    good("-of-other-objects", mark(objects=["datasets/other/x", "what nobody knows"]))
    good("-1024-objects", mark(objects=many[:1024]))
    good("-unknown-fields", mark(new=1.5, snapshots=[SNAPSHOTS[0] | {"new": None}]))
    bad("1025-objects", "a mark has at most 1,024 objects", mark(objects=many))

    bad("requires-unknown", UNKNOWN, "of another shape", WORD, requires=[WORD])
    for field in ("snapshots", "packs"):
        bad(f"without-{field}", f"`{field}` may not be missing", {k: v for k, v in mark().items() if k != field})
    for field in mark():
        bad(f"{field}-null", f"`{field}` is an array", mark(**{field: None}))
        bad(f"{field}-text", f"`{field}` is an array", mark(**{field: "all"}))
        bad(f"{field}-unsorted", f"`{field}` is sorted", mark(**{field: mark()[field][::-1]}))
        bad(f"{field}-twice", f"`{field}` names each only once", mark(**{field: mark()[field][:1] * 2}))
    entry = SNAPSHOTS[0]
    bad("snapshot-twice-differently", "`snapshots` names each only once", mark(snapshots=[entry, entry | {"blake3": None}]))
    bad("snapshots-id", "a snapshot id is a time and 8 digits", mark(snapshots=[entry | {"snapshot": "latest"}]))
    bad("snapshots-blake3", DIGESTS, mark(snapshots=[entry | {"blake3": DIGEST[1:]}]))
    bad("snapshots-without-blake3", "`blake3` may not be missing", mark(snapshots=[{"snapshot": EARLIER}]))
    bad("snapshots-array", "`snapshots` has objects", mark(snapshots=[[EARLIER, DIGEST]]))
    bad("packs-upper-case", DIGESTS, mark(packs=[PACKS[0].upper()]))
    bad("packs-short", DIGESTS, mark(packs=[PACKS[0][1:]]))
    bad("packs-null-inside", DIGESTS, mark(packs=[None]))
    bad("objects-number", "`objects` has names", mark(objects=[7]))
    bad("body-array", "`body` is an object", [*mark().values()])
    prune = record("prune", {"removed": SNAPSHOTS})
    corpus.bad("record", "prune-as-mark", prune, "the record has the type of its folder", record_place("mark"))
    other = record("mark", mark(removed=[]))
    corpus.bad("record", "mark-as-prune", other, "the record has the type of its folder", record_place("prune"))


def add_sweeps(corpus: Corpus) -> None:
    place = record_place("prune")

    def body(**changes: object) -> dict:
        return {"removed": SNAPSHOTS} | changes

    def good(name: str, **changes: object) -> None:
        corpus.good("record", f"prune-{name}", record("prune", body(**changes)), place)

    def bad(name: str, rule: str, **changes: object) -> None:
        corpus.bad("record", f"prune-{name}", record("prune", body(**changes)), rule, place)

    good("passed", passed=[[1, 4], [6, 6], [8, 2**63 - 1]])
    good("passed-side-by-side", passed=[[1, 4], [5, 6]])
    good("passed-none", passed=[], branches=[])
    good("branches", passed=[[1, 9]], branches=[EARLIER, LATER])
    good("removed-none", removed=[], passed=[[2, 2]])
    ranges = "`passed` has ranges, 1 <= first <= last < 2^63, each after the one before"
    for name, passed in [
        ("from-0", [[0, 4]]),
        ("to-2-to-63", [[8, 2**63]]),
        ("backwards", [[4, 1]]),
        ("unsorted", [[6, 8], [1, 4]]),
        ("overlap", [[1, 4], [4, 6]]),
        ("within", [[1, 9], [2, 3]]),
        ("twice", [[1, 4], [1, 4]]),
        ("one-number", [[4]]),
        ("three-numbers", [[1, 4, 6]]),
        ("number", [4]),
        ("text", [["1", "4"]]),
        ("decimal", [[1.0, 4]]),
        ("negative", [[-4, 1]]),
        ("object", [{"first": 1, "last": 4}]),
        ("null", None),
        ("null-inside", [[1, None]]),
    ]:
        bad(f"passed-{name}", ranges, passed=passed)
    for name, rule, branches in [
        ("unsorted", "`branches` is sorted", [LATER, EARLIER]),
        ("twice", "`branches` names each snapshot only once", [EARLIER, EARLIER]),
        ("id", "a snapshot id is a time and 8 digits", ["latest"]),
        ("object", "`branches` has ids", [SNAPSHOTS[0]]),
        ("text", "`branches` is an array", EARLIER),
        ("null", "`branches` is an array", None),
    ]:
        bad(f"branches-{name}", rule, branches=branches)
    entry = {"snapshot": LATER, "time": "2026-11-28T12:05:00.5Z", "settled": "2026-11-28T12:05:00.5Z"}
    first = entry | {"snapshot": EARLIER}
    good("times", passed=[[1, 9]], times=[first, entry])
    good("times-none", times=[])
    good("times-unknown-fields", times=[entry | {"new": 1.5}])
    for name, rule, times in [
        ("unsorted", "`times` is sorted by snapshot", [entry, first]),
        ("twice", "`times` names each snapshot only once", [entry, entry | {"time": "2026-11-28T12:04:00Z"}]),
        ("later-than-settled", "no time is later than it was settled", [entry | {"settled": "2026-11-28T12:05:00Z"}]),
        ("id", "a snapshot id is a time and 8 digits", [entry | {"snapshot": "latest"}]),
        ("offset", TIMES, [entry | {"time": "2026-11-28T12:05:00+00:00"}]),
        ("settled-offset", TIMES, [entry | {"settled": "2026-11-28T13:05:01+01:00"}]),
        ("number", TIMES, [entry | {"time": 5}]),
        ("array", "`times` has objects", [[*entry.values()]]),
        ("text", "`times` is an array", LATER),
        ("null", "`times` is an array", None),
    ]:
        bad(f"times-{name}", rule, times=times)
    for field in entry:
        less = {key: value for key, value in entry.items() if key != field}
        bad(f"times-without-{field}", f"`{field}` may not be missing", times=[less])
    usual = record("prune", body(passed=[[1, 4]]))
    twice = usual.replace(b'"passed":', b'"passed":[],"passed":')
    corpus.bad("record", "prune-passed-field-twice", twice, ONCE, place)
