"""The chapters of the book: what `docs/src/SUMMARY.md` names, and where their text comes from.

A chapter is a document, or one section (`##`) of a document, which its anchor names. A document
that is cut must be cut whole: a section that the summary does not name is an error. Each chapter
knows the anchors that a link may lead to, so that links follow a section to its new place.
"""

import dataclasses
import pathlib
import posixpath
import re
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "check"))

import links  # noqa: E402 - of scripts/check
import markdown  # noqa: E402 - of scripts/check

SUMMARY = "docs/src/SUMMARY.md"


class BookError(Exception):
    """Why the book cannot be built."""


@dataclasses.dataclass(frozen=True)
class Chapter:
    """One page."""

    # Where its text comes from, and the anchor of its section there, or nothing.
    document: str
    section: str
    # Its file below the sources of the book.
    page: str
    text: str

    @property
    def anchors(self) -> set[str]:
        """What a link may lead to in it."""
        return links.anchors(self.text)


def page_of(document: str, section: str) -> str:
    """The file of a chapter: `README.md` is the front door."""
    if document == "README.md":
        return "index.md"
    if document.startswith("docs/src/"):
        return document.removeprefix("docs/src/")
    name = document.removesuffix(".md").lower()
    return f"{name}/{section}.md" if section else f"{name}.md"


def sections(text: str) -> dict[str, str]:
    """The sections (`##`) of a document by their anchors, each with its headings one level up."""
    lines, found, into = text.split("\n"), {}, None
    levels = {line: level for line, level, _ in markdown.headings(markdown.split(text)[0])}
    for number, line in enumerate(lines, 1):
        if levels.get(number) == 2:
            into = found.setdefault(markdown.anchor(line.removeprefix("##").strip()), [])
        if into is not None:
            into.append(line.removeprefix("#") if number in levels else line)
    return {anchor: "\n".join(of).rstrip() + "\n" for anchor, of in found.items()}


def read(root: pathlib.Path) -> list[Chapter]:
    """All chapters, in the order of the summary."""
    summary, found = (root / SUMMARY).read_text(encoding="utf-8"), []
    for target in links.LINK.findall(summary):
        path, _, section = target.partition("#")
        document = posixpath.normpath(posixpath.join(posixpath.dirname(SUMMARY), path))
        text = (root / document).read_text(encoding="utf-8")
        if section:
            cut = sections(text)
            if section not in cut:
                raise BookError(f"{SUMMARY}: {document} has no section (##) with the anchor #{section}")
            text = cut[section]
        found.append(Chapter(document, section, page_of(document, section), text))
    if missing := left_out(root, found):
        raise BookError(f"{SUMMARY} does not name {', '.join(missing)}: add a line for each")
    return found


def left_out(root: pathlib.Path, chapters: list[Chapter]) -> list[str]:
    """What the summary should name: the rest of a document that it cuts, pages, root documents."""
    named = {(chapter.document, chapter.section) for chapter in chapters}
    wanted = set()
    for document in {document for document, section in named if section}:
        wanted |= {(document, section) for section in sections((root / document).read_text(encoding="utf-8"))}
    pages = [*root.glob("*.md"), *(root / "docs/src").glob("*.md")]
    documents = {document for document, _ in named} | {SUMMARY}
    missing = {path.relative_to(root).as_posix() for path in pages} - documents
    return sorted({f"{document}#{section}" for document, section in wanted - named} | missing)


def summary(root: pathlib.Path, chapters: list[Chapter]) -> str:
    """The summary, with the pages of the book in place of the documents."""
    pages = iter(chapters)
    text = (root / SUMMARY).read_text(encoding="utf-8")
    return links.LINK.sub(lambda found: re.sub(r"\([^()]*\)$", lambda _: f"({next(pages).page})", found[0]), text)
