"""Plaintexts of packs."""

from corpus import Corpus
from encode import (
    CHUNK_ID_KEY,
    KIB,
    MIB,
    blake3,
    frame,
    keyed,
    longer,
    padded,
    padding,
    skippable,
    squeezed,
    u32,
    u64,
    varint,
)

TEXT = b"".join(b"row %d of a table that compresses well\n" % row for row in range(400))
PARTS = [b"The first chunk.\n", b"b" * 1000, bytes(range(256))]
MARK = b"LBPACK02"


class Packs:
    """Adds packs to a corpus. Ids are made in `folder`."""

    def __init__(self, corpus: Corpus, folder: str) -> None:
        self.corpus, self.folder = corpus, folder

    def entry(self, content: bytes, length: int | bytes, frame_length: int | bytes) -> bytes:
        """An entry of the chunk table. Numbers may be given as bytes."""
        told = [number if isinstance(number, bytes) else varint(number) for number in (length, frame_length)]
        return keyed(CHUNK_ID_KEY, content, self.folder) + b"".join(told)

    def pack(self, contents: list[bytes], frames: list[bytes] | None = None, **changes) -> bytes:
        """A pack of these chunks. `changes` say what is done otherwise."""
        frames = frames or [frame(content) for content in contents]
        lengths = changes.get("lengths", [len(content) for content in contents])
        told = changes.get("told", [len(one) for one in frames])
        entries = [self.entry(*entry) for entry in zip(contents, lengths, told)]
        table = changes.get("count", varint(len(contents))) + b"".join(entries) + changes.get("table_end", b"")
        at = len(b"".join(frames))
        out = b"".join(frames) + skippable(table, changes.get("table_magic", 0x184D2A50)) + changes.get("between", b"")
        tail = u64(changes.get("offset", at)) + changes.get("mark", MARK)
        last = padding(len(out), tail, changes.get("more", 0), changes.get("zeros"))
        length = len(last) - 8 + changes.get("padding_length", 0)
        return out + u32(changes.get("padding_magic", 0x184D2A50)) + u32(length) + last[8:]

    def good(self, name: str, contents: list[bytes], frames: list[bytes] | None = None) -> None:
        content = b"".join(contents)
        chunks = [[keyed(CHUNK_ID_KEY, one, self.folder).hex(), len(one)] for one in contents]
        place = {"content": len(content)}
        self.corpus.good("pack", name, self.pack(contents, frames), place, chunks=chunks, blake3=blake3(content).hex())

    def bad(
        self, name: str, rule: str, contents: list[bytes] | None = None, content: int | None = None, **changes
    ) -> None:
        contents = PARTS if contents is None else contents
        length = len(b"".join(contents)) if content is None else content
        self.corpus.bad("pack", name, self.pack(contents, **changes), rule, {"content": length})

    def filled(self, length: int) -> tuple[list[bytes], list[bytes]]:
        """One chunk of zeros and its frame, with which a pack has `length` bytes before its padding."""
        content = b""
        while True:
            frames = [frame(content, runs=False)]
            missing = length - len(self.pack([content], frames, zeros=b""))
            if missing == 0:
                return [content], frames
            content = bytes(len(content) + missing)

    def add(self) -> None:
        first, second, third = PARTS
        frames = [frame(content) for content in PARTS]
        told = [len(one) for one in frames]
        self.good("one-chunk", [first])
        self.good("three-chunks", PARTS)
        self.good("compressed", [TEXT, second], [squeezed(TEXT), frame(second)])
        self.good("checksum", [TEXT], [squeezed(TEXT, check=True)])
        for name, length in [
            ("without-zeros", 64 * KIB),
            ("one-byte-above-64-kib", 64 * KIB + 1),
            ("one-byte-above-2-mib", 2 * MIB + 1),
            ("one-byte-above-4-mib", 4 * MIB + 1),
        ]:
            self.good(name, *self.filled(length))
        self.good("32-mib", [bytes(16 * MIB), b"x" * (16 * MIB)])

        self.bad("mark", "a pack ends with LBPACK02", mark=b"LBPACK03")
        at = sum(told)
        for name, offset in [("too-small", at - 1), ("too-large", at + 1), ("beyond", 1 << 20), ("huge", 1 << 63)]:
            self.bad(f"offset-{name}", "the trailer says where the chunk table begins", offset=offset)
        self.bad("no-chunks", "a pack has at least one chunk", [], frames=[b""])
        self.bad("empty-chunk", "a chunk has at least one byte", [first, b"", third])
        self.bad("frames-sum", "the lengths of the frames lead to the table", told=[*told[:2], told[2] + 1])
        borders = [told[0] + 1, told[1] - 1, told[2]]
        self.bad("frame-borders", "the table says how long each frame is", told=borders)
        swapped = [len(first) + 1, len(second) - 1, len(third)]
        self.bad("chunk-lengths", "the table says how long each chunk is", lengths=swapped)
        total = len(b"".join(PARTS))
        self.bad("content", "the content is as long as the manifest says", content=total + 1)
        unsized = [frames[0], frame(second, sized=False), frames[2]]
        self.bad("no-content-size", "a chunk's frame has its content size", frames=unsized)
        split = [frames[0], frame(second[:400]) + frame(second[400:]), frames[2]]
        self.bad("two-frames", "a chunk is one zstd frame", frames=split)
        skipped = [frames[0], frames[1] + skippable(b"skip"), frames[2]]
        self.bad("skippable-in-chunk", "a chunk is one zstd frame, and nothing more", frames=skipped)
        reserved = bytearray(frames[0])
        reserved[6] |= 6
        self.bad("reserved-block", "frames are as RFC 8878 says", frames=[bytes(reserved), *frames[1:]])
        checked = bytearray(squeezed(TEXT, check=True))
        checked[-1] ^= 1
        self.bad("checksum-wrong", "frames are as RFC 8878 says", [TEXT], frames=[bytes(checked)])
        self.bad("table-cut", "the table has as many entries as it says", count=varint(4))
        self.bad("table-huge-count", "the table has as many entries as it says", count=varint(1 << 60))
        self.bad("table-trailing", "nothing follows the last entry of the table", table_end=b"\0")
        self.bad("count-long", "varints have their shortest form", count=longer(varint(3)))
        lengths = [len(content) for content in PARTS]
        self.bad("length-long", "varints have their shortest form", lengths=[longer(varint(lengths[0])), *lengths[1:]])
        self.bad("frame-long", "varints have their shortest form", told=[longer(varint(told[0])), *told[1:]])
        self.bad("table-magic", "skippable frames have one magic number", table_magic=0x184D2A51)
        self.bad("padding-magic", "skippable frames have one magic number", padding_magic=0x184D2A5F)
        self.bad("between", "nothing stands between table and padding", between=skippable(b""))
        self.bad("trailer-outside", "the last frame holds the trailer, too", padding_length=-16)
        self.bad("no-zeros", "padding is exactly as long as due", zeros=b"")
        self.bad("too-many-zeros", "padding is exactly as long as due", more=64 * KIB)
        contents, whole = self.filled(4 * MIB + 1)
        self.bad("even-64-kib", "padding is exactly as long as due", contents, frames=whole, more=-64 * KIB)
        zeros = padded(1) - (len(self.pack(PARTS, zeros=b"")))
        self.bad("first-zero", "padding is zeros", zeros=b"\1" + bytes(zeros - 1))
        self.bad("last-zero", "padding is zeros", zeros=bytes(zeros - 1) + b"\1")
        self.bad(
            "content-above-32-mib", "a pack has at most 32 MiB of content", [bytes(16 * MIB), b"x" * (16 * MIB), b"y"]
        )
        self.bad("chunk-above-16-mib", "a chunk has at most 16 MiB", [bytes(16 * MIB + 1)])
        whole = self.pack(PARTS)
        for name, data, rule in [
            ("cut-by-one", whole[:-1], "a pack ends with LBPACK02"),
            ("cut-to-15", whole[-15:], "a pack ends with 16 bytes that say where its table is"),
            ("nothing", b"", "a pack ends with 16 bytes that say where its table is"),
        ]:
            self.corpus.bad("pack", name, data, rule, {"content": total})
