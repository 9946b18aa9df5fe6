"""Manifests with a field that is wrong."""

from corpus import Corpus
from encode import EARLIER, MIB, SNAPSHOT, VAULT
from manifest_parts import DIGEST, DIGESTS, NUMBERS, PACKS, PLACE, TIMES, WORD, plaintext, usual


class Edits:
    """Manifests with one field that is wrong."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def bad(self, name: str, rule: str, word: str = "", **fields: object) -> None:
        manifest, parts = usual()
        self.corpus.bad("manifest", name, plaintext(manifest | fields, parts), rule, PLACE, word)

    def without(self, field: str) -> None:
        manifest, parts = usual()
        del manifest[field]
        self.corpus.bad(
            "manifest", f"without-{field}", plaintext(manifest, parts), f"`{field}` may not be missing", PLACE
        )

    def add(self) -> None:
        bad = self.bad
        for field in usual()[0]:
            self.without(field)
        first = usual()[0] | {"sequence": 1}
        del first["previous"]
        self.corpus.bad(
            "manifest", "first-without-previous", plaintext(first, usual()[1]), "`previous` of the first is null", PLACE
        )

        unknown = "readers refuse a word that they do not know"
        bad("requires-unknown", unknown, WORD, requires=[WORD])
        bad("requires-unknown-streams", unknown, WORD, requires=[WORD], streams={"of": "another shape"})
        bad("requires-unknown-packs", unknown, WORD, requires=[WORD], packs=None, started=5)
        words = [f"{number:02d}{'x' * 62}" for number in range(65)]
        bad("requires-64-words", unknown, words[0], requires=words[:64])
        bad("requires-65-words", "`requires` has at most 64 words", requires=words)
        bad("requires-long-word", "words have at most 64 bytes", requires=["x" * 65])
        for name, word in [
            ("upper-case", "Word"),
            ("blank", "a word"),
            ("dot", "a.b"),
            ("letter", "wörd"),
            ("underscore", "a_b"),
        ]:
            bad(f"requires-{name}", "words are of a-z 0-9 -", requires=[word])
        bad("requires-word-twice", "a list names each thing only once", requires=[WORD, WORD])
        bad("requires-empty-word", "words have at least one byte", requires=[""])
        bad("requires-number", "`requires` is a list of words", requires=[1])
        bad("requires-text", "`requires` is a list of words", requires=WORD)
        bad("requires-null", "`requires` is a list of words", requires=None)

        bad("other-vault", "the manifest belongs to the vault", vault=VAULT[::-1])
        bad("other-dataset", "the manifest belongs to the dataset", dataset="shop2")
        bad("other-snapshot", "the manifest belongs to its name", snapshot="20261128T120000000Z-0a1b2c3e")
        for name, host in [
            ("upper-case", "Db1"),
            ("empty", ""),
            ("dash", "-db1"),
            ("65", "d" * 65),
            ("slash", "d/b"),
            ("letter", "ü"),
        ]:
            bad(f"host-{name}", "names are 1 to 64 of a-z 0-9 - _ .", host=host)

        for name, sequence in [
            ("negative", -1),
            ("fraction", 1.5),
            ("decimal", 2.0),
            ("2-to-63", 2**63),
            ("2-to-64", 2**64),
        ]:
            bad(f"sequence-{name}", NUMBERS, sequence=sequence)
        bad("sequence-text", NUMBERS, sequence="2")
        bad("sequence-0", "sequences count from 1", sequence=0)
        bad("sequence-0-first", "sequences count from 1", sequence=0, previous=None)
        bad("sequence-1-with-previous", "only the first has no predecessor", sequence=1)
        bad("sequence-2-without-previous", "only the first has no predecessor", previous=None)
        previous = usual()[0]["previous"]
        bad("previous-itself", "an id is later than its predecessor's", previous=previous | {"snapshot": SNAPSHOT})
        for name, snapshot in [
            ("month", "20261327T120000000Z-00c0ffee"),
            ("upper-case", "20261127T120000000Z-00C0FFEE"),
            ("short", EARLIER[:-1]),
            ("day", "20260230T120000000Z-00c0ffee"),
        ]:
            bad(f"previous-{name}", "a snapshot id is a time and 8 digits", previous=previous | {"snapshot": snapshot})
        for name, digest in [
            ("upper-case", DIGEST.upper()),
            ("short", DIGEST[:-2]),
            ("long", DIGEST + "00"),
            ("empty", ""),
        ]:
            bad(f"previous-blake3-{name}", DIGESTS, previous=previous | {"blake3": digest})
        bad("previous-without-blake3", "`blake3` may not be missing", previous={"snapshot": EARLIER})
        bad("previous-without-snapshot", "`snapshot` may not be missing", previous={"blake3": DIGEST})
        bad("previous-text", "`previous` is an object or null", previous=EARLIER)
        bad("previous-array", "`previous` is an object or null", previous=[EARLIER, DIGEST])

        for name, time in [
            ("offset-0", "2026-11-28T12:00:00+00:00"),
            ("offset-1", "2026-11-28T13:00:00+01:00"),
            ("no-zone", "2026-11-28T12:00:00"),
            ("month", "2026-13-28T12:00:00Z"),
            ("hour", "2026-11-28T24:00:00Z"),
            ("date", "2026-11-28"),
            ("blank", "2026-11-28 12:00:00 Z"),
            ("empty", ""),
        ]:
            bad(f"started-{name}", TIMES, started=time)
        bad("finished-offset", TIMES, finished="2026-11-28T12:00:01+00:00")
        bad("started-number", TIMES, started=1795867200)

        bad("source-text", "`source` is an object", source="command")
        bad("source-array", "`source` is an object", source=["command", None, {}, {}, []])
        bad("source-without-engine", "`engine` may not be missing", source={"tools": {}})
        one, two = PACKS[:2]
        bad("pack-twice", "a manifest names each pack only once", packs=[one, two, one])
        bad(
            "pack-twice-differently",
            "a manifest names each pack only once",
            packs=[one, two, [one[0], 70_000, 2000, 1]],
        )
        bad("pack-of-three", "a pack is an array of four", packs=[one[:3], two])
        bad("pack-of-five", "a pack is an array of four", packs=[[*one, 0], two])
        bad("pack-object", "a pack is an array of four", packs=[{"id": one[0]}, two])
        bad("pack-generation-0", "generations count from 1", packs=[[*one[:3], 0], two])
        bad("pack-id-upper-case", DIGESTS, packs=[[one[0].upper(), *one[1:]], two])
        bad("pack-id-short", DIGESTS, packs=[[one[0][1:], *one[1:]], two])
        for place, field in [(1, "size"), (2, "content"), (3, "generation")]:
            for name, number in [("negative", -1), ("fraction", 1000.5), ("text", "1000")]:
                bad(f"pack-{field}-{name}", NUMBERS, packs=[[*one[:place], number, *one[place + 1 :]], two])
        for name, size, content, limit in [
            ("empty", 0, 1000, "a pack has at least one byte"),
            ("without-content", 66_000, 0, "a pack has at least one byte of content"),
            ("above-64-mib", 64 * MIB + 1, 1000, "a pack has at most 64 MiB"),
            ("content-above-32-mib", 66_000, 32 * MIB + 1, "a pack has at most 32 MiB of content"),
        ]:
            bad(f"pack-{name}", limit, packs=[[one[0], size, content, 1], two])
        accounting = {
            "unused": [0, 0],
            "raw_bytes": 0,
            "deduplicated_bytes": 0,
            "row_bytes": 0,
            "stored_bytes": 0,
            "new_packs": 0,
        }
        bad("unused-of-three", "`unused` has a number for each pack", accounting=accounting | {"unused": [0, 0, 0]})
        bad("unused-negative", NUMBERS, accounting=accounting | {"unused": [-1, 0]})
        bad("raw-bytes-fraction", NUMBERS, accounting=accounting | {"raw_bytes": 0.5})
