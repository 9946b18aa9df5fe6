"""Manifests with a stream that is wrong."""

import copy

from corpus import Corpus
from encode import block
from manifest_parts import DIGEST, DIGESTS, NUMBERS, PLACE, Parts, mapped, of, plaintext, stream, usual


def add(corpus: Corpus) -> None:
    def bad(name: str, rule: str, manifest: dict, parts: Parts) -> None:
        corpus.bad("manifest", name, plaintext(manifest, parts), rule, PLACE)

    def names(name: str, rule: str, *streams: str) -> None:
        bad(f"name-{name}", rule, *of(*(stream(one, []) for one in streams)))

    for name, one in [
        ("slash-first", "/a"),
        ("slash-last", "a/"),
        ("slash-twice", "a//b"),
        ("slash", "/"),
        ("dot", "."),
        ("two-dots", ".."),
        ("dot-first", "./a"),
        ("dot-between", "a/./b"),
        ("two-dots-first", "../a"),
        ("two-dots-between", "a/../b"),
        ("two-dots-last", "a/.."),
    ]:
        names(name, "no part of a stream name is empty, . or ..", one)
    names("empty", "stream names have at least one byte", "")
    names("1025-bytes", "stream names have at most 1024 bytes", "n" * 1025)
    names("1026-bytes", "stream names have at most 1024 bytes", "€" * 342)
    for name, one in [
        ("nul", "a\0"),
        ("line-feed", "a\nb"),
        ("escape", "\x1b[2J"),
        ("delete", "a\x7f"),
        ("c1", "a\x85b"),
    ]:
        names(name, "stream names have no control characters", one)
    names("twice", "no two streams have one name", "a", "b", "a")
    below = "no stream is named like a folder of another"
    names("folder", below, "a", "a/b")
    names("folder-behind", below, "a/b", "a")
    names("folder-far", below, "a/b/c/d", "b", "a/b")
    # Sorted, `a-b` comes between the two.
    names("folder-apart", below, "a", "a-b", "a/b")

    manifest, parts = usual()

    def entry(file: str, rule: str, **fields: object) -> None:
        changed = copy.deepcopy(manifest)
        changed["streams"][0] |= fields
        bad(file, rule, changed, parts)

    for field in manifest["streams"][0]:
        changed = copy.deepcopy(manifest)
        del changed["streams"][0][field]
        bad(f"stream-without-{field}", f"`{field}` may not be missing", changed, parts)
    entry("stream-length-negative", NUMBERS, length=-1)
    entry("stream-length-decimal", NUMBERS, length=445.0)
    entry("stream-length-text", NUMBERS, length="445")
    entry("stream-length-less", "the lengths of extents sum to the length", length=444)
    entry("stream-length-more", "the lengths of extents sum to the length", length=446)
    entry("stream-blake3", DIGESTS, blake3=DIGEST.upper())
    entry("stream-exit-text", "`exit` is a number", exit="0")
    entry("stream-extents-text", "`extents` is a number", extents="")
    entry("stream-name-number", "`name` is a text", name=1)
    arrays = copy.deepcopy(manifest)
    arrays["streams"][1] = ["empty", 0, DIGEST, 0, 0, None]
    bad("stream-array", "a stream is an object", arrays, parts)
    length = manifest["streams"][0]["extents"]
    for name, told in [("less", length - 1), ("more", length + 1), ("far", 1 << 40), ("huge", 2**63 - 1)]:
        entry(f"extents-{name}", "`extents` is the length of the stream's part", extents=told)
    shifted = copy.deepcopy(manifest)
    shifted["streams"][0]["extents"], shifted["streams"][1]["extents"] = 0, length
    bad("extents-of-another", "the extents of streams are in the order of `streams`", shifted, parts)
    huge = copy.deepcopy(manifest)
    huge["streams"][0]["extents"] = huge["streams"][2]["extents"] = 2**63 - 1
    bad("extents-wrap", "`extents` is the length of the stream's part", huge, parts)
    bad(
        "empty-stream-with-block",
        "an empty stream has no block",
        *of(({"name": "a", "length": 0, "blake3": DIGEST, "extents": len(block([]))}, block([]))),
    )
    inside = "an extent is inside its pack"
    bad("extent-beyond-pack", inside, *of(stream("a", [(2, 5, 46)])))
    bad("extent-of-unknown-pack", "pack numbers are those of packs", *of(stream("a", [(3, 0, 1)])))
    bad("extent-in-no-older-stream", "number 0 needs a map", *of(stream("a", [(0, 0, 1)])))
    bad("extent-of-no-bytes", "an extent has at least one byte", *of(stream("a", [(1, 0, 1), (1, 5, 0)])))
    bad("extent-beyond-older-stream", "an extent is inside the older stream", *mapped([(0, 100, 401)]))
    # The second stream's extents are looked at, too.
    bad("extent-of-second-stream", inside, *of(stream("a", [(1, 0, 1)]), stream("b", [(1, 1, 1000)])))

    for field in ("covers", "blake3", "packs"):
        changed, more = mapped()
        del changed["streams"][0]["map"][field]
        bad(f"map-without-{field}", f"`{field}` may not be missing", changed, more)
    for name, told, rule in [
        ("none", [], "a map lies in one pack or more"),
        ("0", [0], "pack numbers count from 1"),
        ("beyond", [4], "pack numbers are those of packs"),
        ("twice", [3, 3], "a map names each pack only once"),
        ("negative", [-1], NUMBERS),
        ("text", ["3"], NUMBERS),
        ("number", 3, "`packs` is a list"),
    ]:
        bad(f"map-packs-{name}", rule, *mapped(packs=told))
    for name, told in [("array", [500, DIGEST, [3]]), ("text", "")]:
        changed, more = mapped()
        changed["streams"][0]["map"] = told
        bad(f"map-{name}", "`map` is an object", changed, more)
    bad("map-covers-negative", NUMBERS, *mapped(covers=-1))
    bad("map-blake3", DIGESTS, *mapped(blake3="0" * 63))
