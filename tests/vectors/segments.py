"""Plaintexts of index segments."""

from corpus import Corpus
from encode import KIB, frame, longer, padding, skippable, squeezed, u32, varint

Chunks = list[tuple[bytes, int]]

MARK = b"LBINDEX2"
FIRST = (b"\x11" * 32, 66_000, [(b"\x21" * 32, 512 * KIB), (b"\x22" * 32, 1), (b"\x23" * 32, 16 << 20)])
SECOND = (b"\x12" * 32, 131_300, [(b"\x24" * 32, 300_000)])


def record(pack: bytes, size: int, chunks: Chunks, count: bytes | None = None) -> bytes:
    """What a segment says of a pack."""
    told = varint(len(chunks)) if count is None else count
    return pack + varint(size) + told + b"".join(chunk + varint(length) for chunk, length in chunks)


def content(*packs: tuple, generation: bytes = varint(1), count: bytes | None = None, mark: bytes = MARK) -> bytes:
    return (
        mark + generation + (varint(len(packs)) if count is None else count) + b"".join(record(*pack) for pack in packs)
    )


def framed(frames: bytes, **changes) -> bytes:
    """A plaintext with these frames in place of the first one."""
    return frames + padding(len(frames), **changes)


def add(corpus: Corpus) -> None:
    def good(name: str, data: bytes, generation: int, *packs: tuple) -> None:
        told = [[pack.hex(), size, [[chunk.hex(), length] for chunk, length in chunks]] for pack, size, chunks in packs]
        count = sum(len(chunks) for _, _, chunks in packs)
        holds = {"packs": told} if count < 100 else {"count": count}
        corpus.good("index", name, data, None, generation=generation, **holds)

    def bad(name: str, rule: str, whole: bytes) -> None:
        corpus.bad("index", name, framed(frame(whole)), rule)

    def bad_frames(name: str, rule: str, frames: bytes, **changes) -> None:
        corpus.bad("index", name, framed(frames, **changes), rule)

    both = content(FIRST, SECOND)
    whole = frame(both)
    good("one-pack", framed(frame(content(FIRST))), 1, FIRST)
    good("two-packs", framed(whole), 1, FIRST, SECOND)
    good("generation-300", framed(frame(content(SECOND, generation=varint(300)))), 300, SECOND)
    good("compressed", framed(squeezed(both)), 1, FIRST, SECOND)
    for name, length in [("without-zeros", 64 * KIB), ("one-byte-above-64-kib", 64 * KIB + 1)]:
        pack = full(length)
        good(name, framed(frame(content(pack), runs=False)), 1, pack)

    bad("mark", "a segment begins with LBINDEX2", content(FIRST, mark=b"LBINDEX3"))
    bad("no-packs", "a segment has at least one pack", content())
    bad("generation-0", "generations count from 1", content(FIRST, generation=varint(0)))
    bad("pack-twice", "a segment names each pack only once", content(FIRST, SECOND, FIRST))
    bad("pack-of-no-chunks", "a pack has at least one chunk", content(FIRST, (SECOND[0], SECOND[1], [])))
    bad("empty-chunk", "a chunk has at least one byte", content((*SECOND[:2], [(b"\x24" * 32, 0)])))
    large = (*SECOND[:2], [(b"\x24" * 32, 2**32 + 5)])
    bad("huge-chunk", "a chunk has at most 16 MiB", content(large))
    long_form = "varints have their shortest form"
    bad("generation-long", long_form, content(FIRST, generation=longer(varint(1))))
    bad("packs-long", long_form, content(FIRST, count=longer(varint(1))))
    bad("chunks-long", long_form, content((*SECOND, longer(varint(1)))))
    bad("cut", "a segment has as many packs as it says", both[: -len(record(*SECOND))])
    bad("chunks-cut", "a pack has as many chunks as the segment says", both[:-1])
    bad("huge-count", "a pack has as many chunks as the segment says", content((*SECOND, varint(1 << 60))))
    bad("trailing", "nothing follows the last chunk", both + b"\0")
    bad_frames("two-frames", "the content is one zstd frame", frame(both[:20]) + frame(both[20:]))
    bad_frames("no-content-size", "zstd frames have their content size", frame(both, sized=False))
    bad_frames("skippable-between", "nothing stands between content and padding", whole + skippable(b""))
    bad_frames("no-zeros", "padding is exactly as long as due", whole, zeros=b"")
    bad_frames("too-many-zeros", "padding is exactly as long as due", whole, more=64 * KIB)
    due = 64 * KIB - len(whole) - 8
    bad_frames("last-zero", "padding is zeros", whole, zeros=bytes(due - 1) + b"\1")
    magic = whole + u32(0x184D2A51) + padding(len(whole))[4:]
    corpus.bad("index", "padding-magic", magic, "skippable frames have one magic number")
    corpus.bad("index", "padding-missing", frame(content(full(64 * KIB + 8)), runs=False), "zeros follow the content")
    corpus.bad("index", "nothing", b"", "a segment begins with a zstd frame")
    behind = padding(len(whole) + 8)
    corpus.bad("index", "frame-behind", whole + behind + skippable(b""), "nothing follows the padding")


def full(length: int) -> tuple:
    """A pack whose segment has `length` bytes before its padding, if its frame has raw blocks."""
    count = length // 33 - 3

    def pack(long_ones: int) -> tuple:
        # A length of 200 takes one byte more than a length of 5.
        lengths = [200] * long_ones + [5] * (count - long_ones)
        return (
            b"\x13" * 32,
            66_000,
            [(number.to_bytes(4, "little") + bytes(28), length) for number, length in enumerate(lengths)],
        )

    return pack(length - 8 - len(frame(content(pack(0)), runs=False)))
