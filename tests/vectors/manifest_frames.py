"""Manifests whose frames or JSON are wrong."""

from corpus import Corpus
from encode import EARLIER, KIB, MIB, block, frame, line, padding, skippable, u64
from manifest_parts import MARK, PLACE, filled, framed, usual


def add(corpus: Corpus) -> None:
    manifest, parts = usual()
    text = line(manifest)
    whole = frame(text)

    def bad(name: str, rule: str, json_frame: bytes = whole, **changes) -> None:
        corpus.bad("manifest", name, framed(json_frame, parts, **changes), rule, PLACE)

    def json(name: str, rule: str, changed: bytes) -> None:
        assert changed != text
        bad(f"json-{name}", rule, frame(changed))

    once = "a field stands in an object only once"
    json("field-twice", once, text.replace(b'{"requires":[]', b'{"requires":[],"requires":[]'))
    json("sequence-twice", once, text.replace(b'"sequence":2', b'"sequence":2,"sequence":2'))
    json("name-twice", once, text.replace(b'"name":"empty"', b'"name":"empty","name":"empty"'))
    json("snapshot-twice", once, text.replace(b'"previous":{', b'"previous":{"snapshot":"%s",' % EARLIER.encode()))
    json("escaped-twice", once, text.replace(b'"sequence":2', b'"sequence":2,"\\u0073equence":2'))
    json("two-lines", "the JSON is on one line", text.replace(b',"host"', b',\n"host"'))
    json("no-line-feed", "a line feed follows the JSON", text[:-1])
    json("two-line-feeds", "nothing follows the line feed", text + b"\n")
    json("carriage-return", "a line feed follows the JSON", text[:-1] + b"\r")
    json("twice", "there is one JSON", text + text)
    json("cut", "the JSON is whole", text[:-2] + b"\n")
    json("comma", "the JSON is as RFC 8259 says", text[:-2] + b",}\n")
    json("byte-order-mark", "the JSON is as RFC 8259 says", b"\xef\xbb\xbf" + text)
    json("not-utf-8", "the JSON is UTF-8", text.replace(b"customers", b"custom\xff"))
    json("surrogate", "the JSON is UTF-8", text.replace(b"customers", b"custom\\ud800"))
    json("array", "the JSON is an object", b"[]\n")
    json("null", "the JSON is an object", b"null\n")
    json("nothing", "the JSON is an object", b"\n")
    json("leading-zero", "the JSON is as RFC 8259 says", text.replace(b'"sequence":2', b'"sequence":02'))
    json("exponent", "numbers have their shortest form", text.replace(b'"sequence":2', b'"sequence":2e0'))
    blanks = b"{" + b" " * (128 * MIB + 1 - len(text)) + text[1:]
    json("above-128-mib", "a manifest has at most 128 MiB of JSON", blanks)

    bad("mark-3", "a manifest begins with LBMANI02", mark=b"LBMANI03")
    bad("mark-index", "a manifest begins with LBMANI02", mark=b"LBINDEX2")
    told = "the first frame tells the length of the second"
    for name, more in [("less", -1), ("more", 1), ("far", 1 << 40), ("with-extents", len(parts[0]))]:
        bad(f"json-length-{name}", told, more_json=more)
    bad("json-length-huge", told, head=MARK + b"\xff" * 8)
    bad("head-longer", "the first frame has 16 bytes", head=MARK + u64(len(whole)) + b"\0")
    bad("head-shorter", "the first frame has 16 bytes", head=MARK + u64(len(whole))[:7])
    bad("head-magic", "skippable frames have one magic number", magic=0x184D2A51)
    bad("without-head", "a manifest begins with a skippable frame", first=b"")
    halves = frame(text[:50]) + frame(text[50:])
    bad("two-frames", "the JSON is one zstd frame", halves)
    bad("skippable-behind-json", "the JSON is one zstd frame, and nothing more", whole + skippable(b""))
    bad("no-content-size", "zstd frames have their content size", frame(text, sized=False))
    bad("content-size", "frames are as RFC 8878 says", frame(text, size=len(text) + 1))
    bad("block-behind", "nothing stands between extents and padding", behind=block([(1, 0, 1)]))
    bad("skippable-behind", "nothing stands between extents and padding", behind=skippable(bytes(5)))
    bad("byte-behind", "nothing stands between extents and padding", behind=b"\0")
    bad("padding-magic", "skippable frames have one magic number", padding_magic=0x184D2A53)
    bad("no-zeros", "padding is exactly as long as due", zeros=b"")
    bad("too-many-zeros", "padding is exactly as long as due", more=64 * KIB)
    bad("one-zero-less", "padding is exactly as long as due", more=-1)
    even = filled(4 * MIB - 7)
    bad("even-64-kib", "padding is exactly as long as due", even, more=-64 * KIB)
    due = 64 * KIB - len(framed(whole, parts, zeros=b""))
    bad("first-zero", "padding is zeros", zeros=b"\1" + bytes(due - 1))
    bad("last-zero", "padding is zeros", zeros=bytes(due - 1) + b"\1")
    bad("padding-missing", "a manifest ends with zeros", filled(64 * KIB), last=b"")
    here = len(framed(whole, parts, last=b""))
    bad("frame-behind", "nothing follows the padding", last=padding(here + 8) + skippable(b""))
    bad("cut-by-one", "frames are as RFC 8878 says", last=padding(here)[:-1])
    corpus.bad("manifest", "nothing", b"", "a manifest begins with a skippable frame", PLACE)
