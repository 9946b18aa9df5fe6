"""Where streams are cut, and what chunks are called: the section "Chunks" of FORMAT.md, to the
letter.
"""

from encode import CHUNK_ID_KEY, KIB, MIB, blake3, derived, keyed

CONTEXT = "lifeboat v1 gear table"
MASKS = {
    15: 0x0000D90F03530000,
    16: 0x0000D90303537000,
    17: 0x0000D90703537000,
    18: 0x0000D90707537000,
    19: 0x0000D91707537000,
    20: 0x0000D91747537000,
    21: 0x0000D91767537000,
    22: 0x0000D93767537000,
    23: 0x0000D93777537000,
}
# With this key, a chunk may end before each byte of 175: the word of 175 is zero under the strict
# mask of 64 KiB.
FIRES_AT_ONCE_KEY, FIRES_AT_ONCE_BYTE = blake3(b"key 66"), 175

Pieces = list[dict]


def gear_of(key: bytes) -> list[int]:
    table = derived(CONTEXT, key, 2048)
    return [int.from_bytes(table[at : at + 8], "little") for at in range(0, 2048, 8)]


def cut(rest: bytes, average: int, gear: list[int]) -> int:
    """The length of the chunk that `rest` begins with."""
    end = min(len(rest), 4 * average)
    searched = end - end % 2
    state = 0
    log = average.bit_length() - 1
    for at in range(average // 2, searched):
        state = (2 * state + gear[rest[at]]) % 2**64
        mask = MASKS[log + 1] if at < average else MASKS[log - 1]
        if state & mask == 0:
            return at
    return end


def made(pieces: Pieces) -> bytes:
    """The input that a case describes."""
    out = b""
    for piece in pieces:
        length = piece["length"]
        if "fill" in piece:
            out += bytes([piece["fill"]]) * length
        else:
            some = blake3(piece["xof"].encode(), piece["offset"] + length)[piece["offset"] :]
            out += bytes(byte % piece["modulo"] for byte in some) if "modulo" in piece else some
    return out


def noise(length: int, offset: int = 0, seed: str = "noise") -> dict:
    return {"xof": seed, "offset": offset, "length": length}


def fill(length: int, byte: int = 0) -> dict:
    return {"fill": byte, "length": length}


def cases() -> list[tuple[str, bytes, int, Pieces]]:
    """Name, key, average, input."""
    least, average, most = 32 * KIB, 64 * KIB, 256 * KIB
    key = CHUNK_ID_KEY
    found = [
        ("empty", key, average, []),
        ("one byte", key, average, [noise(1)]),
        ("one byte less than the minimum", key, average, [noise(least - 1)]),
        ("the minimum", key, average, [noise(least)]),
        ("one byte more than the minimum", key, average, [noise(least + 1)]),
        ("two bytes more than the minimum", key, average, [noise(least + 2)]),
        ("the average", key, average, [noise(average)]),
        ("zeros, one byte less than the maximum", key, average, [fill(most - 1)]),
        ("zeros, the maximum", key, average, [fill(most)]),
        ("zeros, one byte more than the maximum", key, average, [fill(most + 1)]),
        ("zeros, several chunks and an odd tail", key, average, [fill(1_000_001)]),
        ("noise, an odd length", key, average, [noise(1_000_003)]),
        ("noise, an even length", key, average, [noise(1_000_004)]),
        ("few letters", key, average, [noise(1_000_000) | {"modulo": 3}]),
        ("another key", blake3(b"another key"), average, [noise(1_000_003)]),
    ]
    # Where in the noise something happens was searched for.
    at_average, below_average, cold, warm, loose = 42_633, 101_913, 12_198, 134_670, 53_686
    found += [
        ("ends at the average", key, average, [noise(200_000, at_average)]),
        ("the last byte of an odd length is not looked at", key, average, [noise(average + 1, at_average)]),
        ("ends before its last two bytes", key, average, [noise(average + 2, at_average)]),
        ("only the loose mask fires, below the average", key, average, [noise(200_000, at_average + 1)]),
        ("ends one byte below the average", key, average, [noise(200_000, below_average)]),
        ("the last byte of an even length is looked at", key, average, [noise(average, below_average)]),
        ("the byte at which it would end is missing", key, average, [noise(average - 1, below_average)]),
        ("fires as bytes before the minimum are not hashed", key, average, [noise(100_000, cold)]),
        ("would fire if bytes before the minimum were hashed", key, average, [noise(100_000, warm)]),
        ("ends one byte below the maximum", key, average, [fill(most - 64), noise(1064, loose - 63)]),
        ("ends at the minimum", FIRES_AT_ONCE_KEY, average, [fill(200_001, FIRES_AT_ONCE_BYTE)]),
    ]
    for log in range(17, 23):
        length = min(6 << log, (3 << log) + 2 * MIB) + 1
        found.append((f"an average of {2**log // KIB} KiB", key, 2**log, [noise(length)]))
    return found


def vectors(folder: str) -> dict:
    """What chunks.json says."""
    found = cases()
    gears = {key: gear_of(key) for _, key, _, _ in found}
    told = []
    for name, key, average, pieces in found:
        rest, lengths = made(pieces), []
        while rest:
            length = cut(rest, average, gears[key])
            lengths.append([length, keyed(key, rest[:length], folder).hex()])
            rest = rest[length:]
        told.append({"name": name, "key": key.hex(), "average": average, "input": pieces, "chunks": lengths})
    words = []
    for key, gear in gears.items():
        first, last = [f"{word:016x}" for word in gear[:4]], f"{gear[255]:016x}"
        words.append({"key": key.hex(), "first": first, "last": last})
    masks = [[bits, f"{mask:016x}"] for bits, mask in MASKS.items()]
    return {"masks": masks, "gears": words, "cases": told}
