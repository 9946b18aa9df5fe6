"""Blocks of extents, and maps."""

from corpus import Corpus
from encode import (
    Extents,
    block,
    block_of,
    extents_content,
    frame,
    longer,
    planes,
    skippable,
    squeezed,
    stream_map,
    u32,
    u64,
    varint,
)

# The contents of the packs that extents may refer to.
CONTENTS = [1000, 50]
ONE: Extents = [(1, 0, 1000)]
SOME: Extents = [(1, 0, 100), (2, 5, 45), (1, 200, 300), (1, 50, 10), (2, 0, 50), (1, 60, 940)]
MOST = 16_384
PACKS = [bytes([digit]) * 32 for digit in (0xB1, 0xA2, 0xC3)]


def total(extents: Extents) -> int:
    return sum(length for _, _, length in extents)


def scattered(count: int) -> Extents:
    """Extents of one byte each, every other byte of a pack, which compress to nothing."""
    return [(1, 2 * number + 1, 1) for number in range(count)]


def content(extents: Extents) -> bytes:
    return b"".join(extents_content(extents))


def add(corpus: Corpus) -> None:
    add_good(corpus)
    add_bad(corpus)
    add_maps(corpus)


def add_good(corpus: Corpus) -> None:
    def good(name: str, extents: Extents, data: bytes | None = None, packs=CONTENTS, older: int = 0) -> None:
        place = {"length": total(extents), "packs": packs, "older": older}
        holds = {"extents": extents} if len(extents) < 100 else {"count": len(extents)}
        corpus.good("extents", name, block(extents) if data is None else data, place, **holds)

    good("none", [], b"")
    good("one", ONE)
    good("backwards", SOME)
    good("two-blocks", SOME + ONE, block(SOME) + block(ONE))
    good("continued", [(1, 0, 10), (1, 10, 20)])
    good("same-twice", ONE + ONE)
    parts = extents_content(SOME)
    good("four-frames", SOME, block_of(total(SOME), *map(frame, parts)))
    whole = b"".join(parts)
    good("frame-for-each-byte", SOME, block_of(total(SOME), *(frame(bytes([byte])) for byte in whole)))
    good("compressed", SOME, block_of(total(SOME), squeezed(whole)))
    many = scattered(MOST)
    good("most-in-a-block", many, packs=[2 * MOST])
    good("most-in-a-block-and-one", [*many, (1, 0, 1)], block(many) + block([(1, 0, 1)]), packs=[2 * MOST])
    good("older", [(0, 100, 400), (1, 0, 5), (0, 0, 100), (2, 1, 2)], older=500)
    good("nine-planes", [(0, 2**62 - 1, 1), (0, 0, 2**62)], older=2**62)


def add_bad(corpus: Corpus) -> None:
    def bad(name: str, rule: str, data: bytes, length: int, packs=CONTENTS, older: int = 0) -> None:
        corpus.bad("extents", name, data, rule, {"length": length, "packs": packs, "older": older})

    def extents(name: str, rule: str, extents: Extents, packs=CONTENTS, older: int = 0) -> None:
        bad(name, rule, block(extents), total(extents), packs, older)

    def plain(name: str, rule: str, whole: bytes, length: int) -> None:
        bad(name, rule, block_of(length, frame(whole)), length)

    bad("block-of-none", "a block has at least one extent", block([]), 0)
    bad("block-of-none-first", "a block has at least one extent", block([]) + block(ONE), 1000)
    one_more = scattered(MOST + 1)
    extents("too-many-in-a-block", "a block has at most 16,384 extents", one_more, packs=[2 * MOST + 2])
    extents("of-no-bytes", "an extent has at least one byte", [(1, 0, 10), (1, 20, 0), (2, 0, 5)])
    extents("beyond-pack", "an extent is inside its pack", [(1, 0, 10), (2, 5, 46)])
    extents("begins-beyond-pack", "an extent is inside its pack", [(2, 51, 1)])
    extents("unknown-pack", "pack numbers are those of packs", [(1, 0, 10), (3, 0, 1)])
    extents("huge-pack-number", "pack numbers are those of packs", [(2**62, 0, 1)])
    extents("older-without-map", "number 0 stands for an older stream, and there is none", [(0, 0, 1)])
    extents("beyond-older", "an extent is inside the older stream", [(0, 100, 401)], older=500)
    plain("before-pack", "an extent is inside its pack", u32(1) + b"\1" + b"\1" + b"\5", 5)
    wraps = [(0, 0, 2**62)] * 4 + [(0, 0, 10)]
    bad("sum-wraps", "the lengths sum to the length", block_of(10, frame(content(wraps))), 10, older=2**62)
    bad("sum", "the lengths sum to the length", block(ONE), 1001)
    bad("sum-of-no-block", "the lengths sum to the length", b"", 1)
    told = block_of(1001, frame(content(ONE)))
    bad("block-sum", "a block says how long its extents are together", told, 1001)
    swapped = block_of(total(ONE) + 1, frame(content(ONE))) + block_of(total(SOME) - 1, frame(content(SOME)))
    bad("block-sums", "a block says how long its extents are together", swapped, total(ONE + SOME))
    number, gap, length = b"\1", b"\0", planes([1000])
    plain("pack-number-long", "numbers have their shortest form", u32(1) + longer(number) + gap + length, 1000)
    plain("gap-long", "numbers have their shortest form", u32(1) + number + longer(gap) + length, 1000)
    plain("length-long", "numbers have their shortest form", u32(1) + number + gap + longer(length), 1000)
    too_large = u32(1) + number + b"\x80" * 9 + b"\1" + length
    plain("number-too-large", "numbers are below 2^63", too_large, 1000)
    plain("planes-cut", "a block has all its numbers", content(ONE)[:-1], 1000)
    plain("count-cut", "a block has all its numbers", u32(1)[:3], 1000)
    plain("huge-count", "a block has all its numbers", b"\xff" * 4 + content(ONE)[4:], 1000)
    plain("trailing", "nothing follows the lengths", content(ONE) + b"\0", 1000)
    whole = content(ONE)
    for name, payload in [("longer-head", u64(1000) + b"\0"), ("shorter-head", u64(1000)[:7])]:
        bad(name, "the skippable frame of a block holds 64 bits", skippable(payload) + frame(whole), 1000)
    head = skippable(u64(1000))
    bad("magic", "skippable frames have one magic number", skippable(u64(1000), 0x184D2A51) + frame(whole), 1000)
    between = head + frame(whole[:4]) + skippable(b"", 0x184D2A51) + frame(whole[4:])
    bad("skippable-between", "a block has only one skippable frame", between, 1000)
    bad("no-head", "a block begins with a skippable frame", frame(whole), 1000)
    bad("no-frame", "a block has at least one zstd frame", head, 1000)
    bad("no-content-size", "zstd frames have their content size", head + frame(whole, sized=False), 1000)
    wrong = frame(whole, size=len(whole) - 1)
    bad("content-size", "frames are as RFC 8878 says", head + wrong, 1000)
    bad("frame-cut", "frames are as RFC 8878 says", block(ONE)[:-1], 1000)
    bad("bytes-behind", "nothing follows the last block", block(ONE) + b"\0", 1000)
    bad("head-behind", "nothing follows the last block", block(ONE) + skippable(b"")[:4], 1000)


def add_maps(corpus: Corpus) -> None:
    known = {pack.hex(): size for pack, size in zip(PACKS, [1000, 50, 1 << 20])}

    def good(name: str, extents: Extents, data: bytes) -> None:
        corpus.good("map", name, data, {"covers": total(extents), "packs": known}, extents=extents)

    def bad(name: str, rule: str, data: bytes, covers: int = 1000, packs: dict = known) -> None:
        corpus.bad("map", name, data, rule, {"covers": covers, "packs": packs})

    one = stream_map(PACKS[:1], ONE)
    good("one-pack", ONE, one)
    good("two-packs", SOME, stream_map(PACKS[:2], SOME))
    good("two-blocks", SOME + ONE, stream_map(PACKS[:2], SOME) + block(ONE))
    large = [(2, 0, 1 << 20), (1, 3, 4)]
    good("other-order", large, stream_map([PACKS[0], PACKS[2]], large))

    bad("mark-1", "a map begins with LBMAP002", stream_map(PACKS[:1], ONE, b"LBMAP001"))
    bad("mark-3", "a map begins with LBMAP002", stream_map(PACKS[:1], ONE, b"LBMAP003"))
    bad("without-mark", "a map begins with LBMAP002", one[8:])
    bad("unknown-pack", "the manifest has every pack of a map", one, packs={PACKS[1].hex(): 50})
    twice = stream_map([*PACKS[:1], *PACKS[:1]], ONE)
    bad("pack-twice", "a map names each pack only once", twice)
    bad("older-stream", "a map refers to no older stream", stream_map(PACKS[:1], [(0, 0, 1000)]))
    bad("unknown-number", "pack numbers count from 1 in the order of the ids", stream_map(PACKS[:1], [(2, 0, 1)]), 1)
    bad("beyond-pack", "an extent is inside its pack", stream_map(PACKS[:1], [(1, 1, 1000)]))
    for name, covers in [("covers-less", 1001), ("covers-more", 999)]:
        bad(name, "the extents of a map sum to what it covers", one, covers)
    long_count = one[:8] + longer(varint(1)) + one[9:]
    bad("count-long", "varints have their shortest form", long_count)
    bad("count-huge", "a map has as many ids as it says", one[:8] + varint(1 << 20) + one[9:])
    bad("ids-cut", "a map has as many ids as it says", one[:40])
    bad("blocks-cut", "frames are as RFC 8878 says", one[:-1])
    bad("trailing", "nothing follows the last block", one + b"\0")
    bad("block-of-none", "a block has at least one extent", one + block([]))
    bad("nothing", "a map begins with LBMAP002", b"")
