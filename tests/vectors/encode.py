"""The parts of the format as bytes, written from FORMAT.md alone.

Frames of zstd are put together by hand, from blocks as they are and blocks of one repeated byte. So
what is written depends on no version of zstd, and every field of a frame can be set to what is
wrong. `squeezed` asks the program zstd, for a few files that hold what real writers make.
"""

import functools
import json
import re
import subprocess

VAULT = "0123456789abcdef0123456789abcdef"
DATASET = "shop"
SNAPSHOT = "20261128T120000000Z-0a1b2c3d"
EARLIER = "20261127T120000000Z-00c0ffee"
LATER = "20261129T120000000Z-00c0ffee"
CHUNK_ID_KEY = bytes(range(32))

KIB, MIB = 1 << 10, 1 << 20
BLOCK_BYTES = 128 * KIB
# Frames of more content say that they need a window of 8 MiB.
SINGLE_SEGMENT_BYTES = 4 * MIB
WINDOW_OF_8_MIB = 0x68
RUN = re.compile(rb"(.)\1{15,}", re.DOTALL)


def run(*command: str, data: bytes) -> bytes:
    """What a program prints when it is given `data`."""
    return subprocess.run(command, check=True, input=data, stdout=subprocess.PIPE).stdout


def blake3(data: bytes, length: int = 32) -> bytes:
    """BLAKE3, with as much output as wanted."""
    return run("b3sum", "--raw", "--length", str(length), data=data)


@functools.cache
def keyed(key: bytes, data: bytes, folder: str) -> bytes:
    """Keyed BLAKE3. The program reads the key from its input, and what to hash from a file."""
    with open(f"{folder}/keyed", "wb") as file:
        file.write(data)
    return run("b3sum", "--raw", "--keyed", f"{folder}/keyed", data=key)


def derived(context: str, key: bytes, length: int) -> bytes:
    """BLAKE3 in its mode that derives keys."""
    return run("b3sum", "--raw", "--length", str(length), "--derive-key", context, data=key)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def varint(value: int) -> bytes:
    """Unsigned LEB128."""
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def longer(number: bytes) -> bytes:
    """The same varint with one byte more than it needs."""
    return number[:-1] + bytes([number[-1] | 128, 0])


def planes(numbers: list[int]) -> bytes:
    """Numbers in planes."""
    out = b""
    while True:
        out += bytes(number & 127 | (number > 127) << 7 for number in numbers)
        numbers = [number >> 7 for number in numbers if number > 127]
        if not numbers:
            return out


def padded(length: int) -> int:
    """How long a plaintext is with its padding."""
    step = 64 * KIB
    if length > 2 * MIB:
        exponent = length.bit_length() - 1
        step = 1 << exponent - exponent.bit_length()
    return -(-length // step) * step


def skippable(payload: bytes, magic: int = 0x184D2A50) -> bytes:
    return u32(magic) + u32(len(payload)) + payload


def padding(length: int, tail: bytes = b"", more: int = 0, zeros: bytes | None = None) -> bytes:
    """The frame of zeros and `tail` after `length` bytes, with `more` zeros than are due."""
    least = length + 8 + len(tail)
    due = padded(least) - least + more
    return skippable((bytes(due) if zeros is None else zeros) + tail)


def runs_of(piece: bytes, at: int) -> list[tuple[int, int, int]]:
    """Where blocks in `piece` begin and end, which is at `at` of the content, and which are runs."""
    if piece.count(piece[:1]) == len(piece) > 0:
        return [(1, at, at + len(piece))]
    found, end = [], 0
    for run_found in RUN.finditer(piece):
        found += [(0, at + end, at + run_found.start()), (1, at + run_found.start(), at + run_found.end())]
        end = run_found.end()
    return [(kind, begin, to) for kind, begin, to in [*found, (0, at + end, at + len(piece))] if begin < to]


def blocks(content: bytes, runs: bool) -> bytes:
    """The blocks of a zstd frame. With `runs`, a run of one byte becomes a block of its own."""
    cut = []
    for at in range(0, len(content), BLOCK_BYTES):
        piece = content[at : at + BLOCK_BYTES]
        cut += runs_of(piece, at) if runs else [(0, at, at + len(piece))]
    out = bytearray()
    for number, (kind, begin, end) in enumerate(cut or [(0, 0, 0)], 1):
        out += ((end - begin) << 3 | kind << 1 | (number >= len(cut))).to_bytes(3, "little")
        out += content[begin : begin + 1] if kind else content[begin:end]
    return bytes(out)


def frame(content: bytes, runs: bool = True, sized: bool = True, size: int | None = None) -> bytes:
    """A zstd frame with its content size, or without it, or with a wrong one."""
    size = len(content) if size is None else size
    flag, field = next(
        (flag, (size - least).to_bytes(width, "little"))
        for flag, least, width, above in [(0, 0, 1, 256), (1, 256, 2, 65_792), (2, 0, 4, 1 << 32), (3, 0, 8, 1 << 64)]
        if size < above
    )
    if not sized:
        header = bytes([0, WINDOW_OF_8_MIB])
    elif size <= SINGLE_SEGMENT_BYTES:
        header = bytes([flag << 6 | 1 << 5]) + field
    else:
        header = bytes([flag << 6, WINDOW_OF_8_MIB]) + field
    return u32(0xFD2FB528) + header + blocks(content, runs)


def squeezed(content: bytes, check: bool = False) -> bytes:
    """A zstd frame as the program zstd makes it."""
    option = "--check" if check else "--no-check"
    return run("zstd", "-q", "-c", "-19", option, f"--stream-size={len(content)}", data=content)


def line(value: object) -> bytes:
    """JSON on one line, and a line feed."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


Extents = list[tuple[int, int, int]]


def extents_content(extents: Extents) -> list[bytes]:
    """What a block's zstd frames hold: count, pack numbers, gaps, lengths."""
    ends: dict[int, int] = {}
    gaps, lengths = [], []
    for pack, offset, length in sorted(extents, key=lambda extent: extent[0]):
        gap = offset - ends.get(pack, 0)
        gaps.append(2 * gap if gap >= 0 else -2 * gap - 1)
        lengths.append(length)
        ends[pack] = offset + length
    numbers = planes([pack for pack, _, _ in extents])
    return [u32(len(extents)), numbers, planes(gaps), planes(lengths)]


def block_of(total: int, *frames: bytes) -> bytes:
    """A block of these zstd frames."""
    return skippable(u64(total)) + b"".join(frames)


def block(extents: Extents) -> bytes:
    """A block of extents `(pack number, offset, length)`."""
    return block_of(sum(length for _, _, length in extents), frame(b"".join(extents_content(extents))))


def stream_map(packs: list[bytes], extents: Extents, mark: bytes = b"LBMAP002") -> bytes:
    """A map with one block."""
    return mark + varint(len(packs)) + b"".join(packs) + block(extents)
