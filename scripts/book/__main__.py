"""Builds the book: `python3 -B scripts/book`, after `cargo build --workspace --bins`.

Gathers its chapters from the documents, the programs' help and the annotated configuration into
target/book-source, has mdbook make target/book of them, and checks every link of that. Fails at the
first of these that does. LIFEBOAT_BIN_DIR names the folder of the built programs.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import chapters
import hrefs
import places
import reference

ROOT = pathlib.Path(__file__).resolve().parents[2]
MDBOOK = ROOT / ".tools/cargo/bin/mdbook"


def gather(source: pathlib.Path, programs: pathlib.Path) -> int:
    """Writes what mdbook reads. Returns the number of chapters."""
    shutil.rmtree(source, ignore_errors=True)
    book = source / "src"
    book.mkdir(parents=True)
    for name in ("book.toml", "book.css"):
        shutil.copyfile(ROOT / "docs" / name, source / name)
    every = chapters.read(ROOT)
    leads = places.Places(ROOT, book, every)
    for chapter in every:
        page = book / chapter.page
        page.parent.mkdir(exist_ok=True)
        page.write_text(reference.fill(leads.lead(chapter), ROOT, programs), encoding="utf-8")
    (book / "SUMMARY.md").write_text(chapters.summary(ROOT, every), encoding="utf-8")
    return len(every)


def main() -> int:
    """Builds and checks."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    programs = pathlib.Path(os.environ.get("LIFEBOAT_BIN_DIR") or target / "debug")
    source, book = target / "book-source", target / "book"
    try:
        count = gather(source, programs)
    except chapters.BookError as error:
        print(f"book: {error}", file=sys.stderr)
        return 1
    if not MDBOOK.exists():
        print("book: mdbook is missing: run scripts/setup --book", file=sys.stderr)
        return 1
    shutil.rmtree(book, ignore_errors=True)
    # What it only warns of is not accepted either: it leaves out what it cannot read.
    made = subprocess.run([MDBOOK, "build", source, "--dest-dir", book.resolve()], capture_output=True, text=True)
    if made.returncode != 0 or "WARN" in made.stderr + made.stdout:
        print(made.stdout + made.stderr, file=sys.stderr)
        return made.returncode or 1
    wrong, looked_at = hrefs.check(book.resolve())
    for one in wrong:
        print(one, file=sys.stderr)
    print(f"book: {count} chapters, {looked_at} links: {f'{len(wrong)} lead nowhere' if wrong else 'ok'}: {book}/index.html")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
