"""Plaintexts of manifests."""

import copy

import manifest_fields
import manifest_frames
import manifest_streams
from corpus import Corpus
from encode import KIB, MIB, block, frame, line, squeezed
from manifest_parts import DIGEST, PACKS, PLACE, Parts, filled, framed, mapped, of, plaintext, stream, usual


def add(corpus: Corpus) -> None:
    add_good(corpus)
    manifest_fields.Edits(corpus).add()
    manifest_streams.add(corpus)
    manifest_frames.add(corpus)


def add_good(corpus: Corpus) -> None:
    def good(name: str, manifest: dict, parts: Parts) -> None:
        corpus.good("manifest", name, plaintext(manifest, parts), PLACE)

    manifest, parts = usual()
    good("usual", manifest, parts)
    good("first", manifest | {"sequence": 1, "previous": None}, parts)
    good("no-streams", *of(packs=[]))
    accounting = {
        "unused": [600, 0],
        "raw_bytes": 495,
        "deduplicated_bytes": 50,
        "row_bytes": 0,
        "stored_bytes": 66_000,
        "new_packs": 1,
    }
    source = {
        "engine": "postgres",
        "server_version": "15.14",
        "tools": {"pg_dump": "15.14"},
        "details": {"encoding": "UTF8"},
        "warnings": ["one", "two"],
    }
    told = copy.deepcopy(manifest) | {"accounting": accounting, "source": source}
    told["streams"][0]["exit"] = 1
    good("everything-told", told, parts)
    grown, more = mapped()
    grown |= {
        "accounting": accounting | {"unused": [0, 0, 0], "new": 1},
        "source": {"engine": "command", "new": 1},
        "new": [{"a": None}],
    }
    grown["previous"]["new"] = -1.5
    grown["streams"][0]["new"] = {}
    grown["streams"][0]["map"]["new"] = "x"
    good("unknown-fields", grown, more)
    good("mapped", *mapped())
    two_maps = of(
        stream("a", [(0, 0, 10)], map={"covers": 10, "blake3": DIGEST, "packs": [3, 1]}),
        stream("b", [(0, 5, 5), (2, 0, 1)], map={"covers": 10, "blake3": DIGEST, "packs": [3, 1]}),
        packs=PACKS,
    )
    good("map-of-two-streams", *two_maps)
    largest = [[f"{number:02x}" * 32, 64 * MIB, 32 * MIB, 1] for number in range(9)]
    for count, told in [(8, good), (9, None)]:
        entry, blocks = stream("a", [(0, 0, 1)], map={"covers": 1, "blake3": DIGEST, "packs": [*range(1, count + 1)]})
        made = of((entry, blocks), packs=largest)
        if told:
            told("map-of-256-mib", *made)
        else:
            corpus.bad("manifest", "map-above-256-mib", plaintext(*made), "a map has at most 256 MiB", PLACE)
    good("host-64", manifest | {"host": "0" * 61 + "._-"}, parts)
    names = [
        "a",
        "a-b",
        "a0",
        "b/c",
        "b/d",
        "b-c",
        "...",
        ".x",
        "..x/y..",
        "ü/日本",
        " ",
        "a\\b",
        "n" * 1024,
        "€" * 341 + "n",
    ]
    good("names", *of(*(stream(name, []) for name in names)))
    many = [(1, 2 * number + 1, 1) for number in range(400)]
    entry, one = stream("orders", many + many)
    entry["extents"] = 2 * len(block(many))
    good("two-blocks", *of((entry, block(many) * 2)))
    for name, started in [
        ("milliseconds", "2026-11-28T12:00:00.123Z"),
        ("nanoseconds", "2026-11-28T12:00:00.123456789Z"),
    ]:
        good(name, manifest | {"started": started}, parts)
    text = line(manifest)
    corpus.good("manifest", "compressed", framed(squeezed(text), parts), PLACE)
    blanks = text.replace(b",", b" ,\t").replace(b"{", b"{ ")
    corpus.good("manifest", "blanks", framed(frame(blanks), parts), PLACE)
    escaped = text.replace(b'"sequence"', b'"\\u0073equence"').replace(b'"orders"', b'"\\u006Frders"')
    corpus.good("manifest", "escapes", framed(frame(escaped), parts), PLACE)
    corpus.good("manifest", "without-zeros", framed(filled(64 * KIB - 8), parts), PLACE)
    corpus.good("manifest", "one-byte-above-64-kib", framed(filled(64 * KIB - 7), parts), PLACE)
    corpus.good("manifest", "one-byte-above-4-mib", framed(filled(4 * MIB - 7), parts), PLACE)
