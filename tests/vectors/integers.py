"""Padding, varints and planes, each alone."""

from encode import KIB, MIB, longer, padded, planes, varint

LENGTHS = [
    *(1, 24, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 128 * KIB, 128 * KIB + 1, 1_000_000, 2 * MIB - 64 * KIB + 1),
    *(2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 2 * MIB + 64 * KIB - 1, 2 * MIB + 64 * KIB, 2 * MIB + 64 * KIB + 1),
    *(
        4 * MIB - 64 * KIB,
        4 * MIB - 64 * KIB + 1,
        4 * MIB - 1,
        4 * MIB,
        4 * MIB + 1,
        4 * MIB + 128 * KIB,
        4 * MIB + 128 * KIB + 1,
    ),
    *(5_000_000, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 10_000_000, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1),
    *(16 * MIB + 512 * KIB, 16 * MIB + 512 * KIB + 1, 32 * MIB - 1, 32 * MIB, 32 * MIB + 1, 33 * MIB, 33 * MIB + 1),
    *(48 * MIB + 5, 64 * MIB - 1, 64 * MIB, 64 * MIB + 1, 128 * MIB + 1, 200_000_000, 256 * MIB - 1, 256 * MIB),
]

VARINTS = [0, 1, 127, 128, 129, 255, 256, 300, 16_383, 16_384, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**32 - 1, 2**32]
VARINTS += [2**35 - 1, 2**35, 2**56 - 1, 2**56, 2**63 - 1, 2**63, 2**64 - 1]

PLANES = [
    [0],
    [127],
    [128],
    [1, 300, 127, 70_000],
    [70_000, 1, 300],
    [2**63 - 1],
    [2**62, 0, 2**63 - 1, 1],
    [2**56, 2**49],
]
PLANES += [[16_384] * 3, [0] * 5, [128, 0, 128, 0, 2**35]]


def padding_pairs() -> list[list[int]]:
    return [[length, padded(length)] for length in LENGTHS]


def varints() -> dict:
    """Values are texts, as not every reader of JSON has numbers of 64 bits."""
    cut, long_form, large = "cut short", "not the shortest form", "above 2^64 - 1"
    malformed = [
        (b"", cut),
        (b"\x80", cut),
        (b"\xff\xff\xff", cut),
        (b"\xff" * 4, cut),
        (b"\xff" * 9, cut),
        (b"\x80\x00", long_form),
        (longer(varint(1)), long_form),
        (longer(varint(127)), long_form),
        (longer(longer(varint(1))), long_form),
        (b"\x80\x80\x80\x00", long_form),
        (longer(varint(2**28 - 1)), long_form),
        (longer(varint(2**56 - 1)), long_form),
        (longer(varint(2**63 - 1)), long_form),
        (longer(varint(2**64 - 1)), long_form),
        (varint(2**64), large),
        (varint(2**64 + 1), large),
        (varint(2**70 - 1), large),
        (varint(2**70), large),
        (b"\xff" * 20 + b"\1", large),
    ]
    return {
        "good": [{"value": str(value), "bytes": varint(value).hex()} for value in VARINTS],
        "malformed": [{"bytes": data.hex(), "rule": rule} for data, rule in malformed],
    }


def planes_alone() -> dict:
    cut, long_form, large = "cut short", "not the shortest form", "above 2^63 - 1"
    malformed = [
        (1, b"", cut),
        (2, b"\1", cut),
        (1, b"\x80", cut),
        (3, b"\x81\x01\x82\x01", cut),
        (1, planes([2**63 - 1])[:-1], cut),
        (1, b"\x80\x00", long_form),
        (1, b"\x81\x00", long_form),
        (3, b"\x81\x01\x82\x00\x01", long_form),
        (2, b"\x81\x81\x01\x80\x00", long_form),
        (1, b"\xff" * 8 + b"\x00", long_form),
        (1, b"\x80" * 9 + b"\x01", large),
        (1, b"\xff" * 9 + b"\x01", large),
        (2, b"\x80\x01" + b"\x80" * 9 + b"\x01", large),
        (1, b"\xff" * 9 + b"\x00", large),
    ]
    return {
        "good": [
            {"numbers": [str(number) for number in numbers], "bytes": planes(numbers).hex()} for numbers in PLANES
        ],
        "malformed": [{"count": count, "bytes": data.hex(), "rule": rule} for count, data, rule in malformed],
    }
