"""What manifests are made of."""

from encode import DATASET, EARLIER, SNAPSHOT, VAULT, Extents, block, frame, line, padding, skippable, u32, u64

PLACE = {"vault": VAULT, "dataset": DATASET, "snapshot": SNAPSHOT}
MARK = b"LBMANI02"
DIGEST = "5c" * 32
PACKS = [["b1" * 32, 66_000, 1000, 1], ["a2" * 32, 66_000, 50, 1], ["c3" * 32, 67_000, 300, 2]]
NUMBERS = "numbers are whole, not negative, below 2^63, in their shortest form"
DIGESTS = "digests are 64 lower-case hexadecimal digits"
TIMES = "times are RFC 3339 in UTC and end with Z"
# Asks for something that no reader knows.
WORD = "what-nobody-knows"

Parts = list[bytes]


def stream(name: str, extents: Extents, **more: object) -> tuple[dict, bytes]:
    """A stream's entry and its blocks."""
    blocks = block(extents) if extents else b""
    length = sum(length for _, _, length in extents)
    return {"name": name, "length": length, "blake3": DIGEST, "extents": len(blocks)} | more, blocks


def of(*streams: tuple[dict, bytes], **fields: object) -> tuple[dict, Parts]:
    """A manifest's JSON and the extents of its streams."""
    manifest = {
        "requires": [],
        "vault": VAULT,
        "dataset": DATASET,
        "snapshot": SNAPSHOT,
        "sequence": 2,
        "previous": {"snapshot": EARLIER, "blake3": DIGEST},
        "host": "db1",
        "started": "2026-11-28T12:00:00Z",
        "finished": "2026-11-28T12:00:01Z",
        "source": {"engine": "command"},
        "packs": PACKS[:2],
        "streams": [entry for entry, _ in streams],
    }
    return manifest | fields, [blocks for _, blocks in streams]


def usual() -> tuple[dict, Parts]:
    return of(
        stream("orders", [(1, 0, 100), (2, 5, 45), (1, 200, 300)]),
        stream("empty", []),
        stream("customers", [(2, 0, 50)]),
    )


def mapped(extents: Extents = ((0, 100, 400), (1, 0, 5), (0, 0, 100)), **changes: object) -> tuple[dict, Parts]:
    """With a map, of an older stream of 500 bytes."""
    entry = {"covers": 500, "blake3": DIGEST, "packs": [3]} | changes
    return of(stream("orders", list(extents), map=entry), packs=PACKS)


def framed(json_frame: bytes, parts: Parts, **changes) -> bytes:
    """A plaintext. `changes` say what is done otherwise."""
    head = changes.get("head", changes.get("mark", MARK) + u64(len(json_frame) + changes.get("more_json", 0)))
    first = changes.get("first", skippable(head, changes.get("magic", 0x184D2A50)))
    out = first + json_frame + b"".join(parts) + changes.get("behind", b"")
    if "last" in changes:
        return out + changes["last"]
    last = padding(len(out), b"", changes.get("more", 0), changes.get("zeros"))
    return out + u32(changes.get("padding_magic", 0x184D2A50)) + last[4:]


def plaintext(manifest: dict, parts: Parts, **changes) -> bytes:
    return framed(frame(line(manifest)), parts, **changes)


def filled(length: int) -> bytes:
    """A manifest's frame whose raw blocks of blanks make the plaintext `length` bytes without padding."""
    manifest, parts = usual()
    text, blanks = line(manifest), 0
    while True:
        json_frame = frame(text.replace(b"{", b"{" + b" " * blanks, 1), runs=False)
        missing = length - len(framed(json_frame, parts, last=b""))
        if missing == 0:
            return json_frame
        blanks += missing
