"""Writes the test vectors beside it: `python3 -B tests/vectors/make.py`. README.md says what they are.

It is written from FORMAT.md, and shares no code with Lifeboat. It needs the programs `b3sum` and
`zstd`.
"""

import json
import pathlib
import shutil
import tempfile

import acts
import chunks
import extents
import integers
import logs
import manifests
import packs
import segments
import roots
import texts
from corpus import Corpus
from encode import CHUNK_ID_KEY, DATASET, SNAPSHOT, VAULT, frame

HERE = pathlib.Path(__file__).resolve().parent


def write(name: str, **lists: object) -> None:
    """JSON with a line for each entry of a list."""
    told = []
    for field, value in lists.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list):
            text = "[\n" + ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in value) + "\n  ]"
        told.append(f"  {json.dumps(field)}: {text}")
    (HERE / name).write_text("{\n" + ",\n".join(told) + "\n}\n", encoding="utf-8")


def main() -> None:
    corpus = Corpus()
    with tempfile.TemporaryDirectory() as folder:
        packs.Packs(corpus, folder).add()
        write("chunks.json", **chunks.vectors(folder))
    for module in (manifests, extents, segments, texts, acts, roots, logs):
        module.add(corpus)
    for folder in ("good", "malformed"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    names = [file.name for file in corpus.files]
    assert len(set(names)) == len(names), [name for name in names if names.count(name) > 1]
    for file in corpus.files:
        path = HERE / ("good" if file.good else "malformed") / f"{file.name}.zst"
        path.write_bytes(frame(file.data))
    entries = [
        {"name": file.name, "kind": file.kind, "good": file.good, "place": file.place} | file.more
        for file in corpus.files
    ]
    write("index.json", vault=VAULT, dataset=DATASET, snapshot=SNAPSHOT, chunk_id_key=CHUNK_ID_KEY.hex(), files=entries)
    write("padding.json", padded=integers.padding_pairs())
    write("varints.json", **integers.varints())
    write("planes.json", **integers.planes_alone())


if __name__ == "__main__":
    main()
