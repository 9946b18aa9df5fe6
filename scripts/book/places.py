"""Links of a document, led to their places in the book.

A link to a document leads to its chapter, one to a section to the chapter that holds it, one to
another file of the repository to a copy of it in the book, and one to a folder, which a book cannot
hold, becomes plain text. Text in code stays as it is.
"""

import os
import pathlib
import posixpath
import re
import shutil

from chapters import BookError, Chapter

import links  # of scripts/check: `chapters` says where that is
import markdown  # of scripts/check


def without_code(text: str) -> str:
    """The text with code blotted out, and everything else at its place."""
    prose, fenced = markdown.split(text)
    in_fence = {number for number, _ in fenced}
    lines = text.split("\n")
    blotted = [
        "x" * len(line) if number in in_fence or prose_line != line else line
        for number, (line, prose_line) in enumerate(zip(lines, prose.split("\n"), strict=True), 1)
    ]
    return markdown.SPAN.sub(lambda span: re.sub(r"[^\n]", "x", span[0]), "\n".join(blotted))


class Places:
    """Where everything stands in the book."""

    def __init__(self, root: pathlib.Path, book: pathlib.Path, every: list[Chapter]):
        self.root, self.book = root, book
        self.by_document: dict[str, list[Chapter]] = {}
        for chapter in every:
            self.by_document.setdefault(chapter.document, []).append(chapter)

    def chapter(self, document: str, anchor: str) -> tuple[Chapter, str]:
        """The chapter that holds an anchor of a document, and the anchor there."""
        of = self.by_document[document]
        for chapter in of:
            if anchor and anchor == chapter.section:
                return chapter, ""
            if not anchor or anchor in chapter.anchors:
                return chapter, anchor
        raise BookError(f"{document} has no place for the link #{anchor}")

    def place(self, source: Chapter, link: str) -> str | None:
        """What a link of a chapter is in the book; `None`: it leads to a folder."""
        if links.ELSEWHERE.match(link):
            return link
        path, _, anchor = link.partition("#")
        document = source.document
        if path:
            document = posixpath.normpath(posixpath.join(posixpath.dirname(document), path))
        if document in self.by_document:
            chapter, anchor = self.chapter(document, anchor)
            page = posixpath.relpath(chapter.page, posixpath.dirname(source.page) or ".")
            return f"{page}#{anchor}" if anchor else page
        if (self.root / document).is_dir():
            return None
        # Never out of the repository: what the book shows is what git has.
        if document.startswith("..") or not (self.root / document).is_file():
            raise BookError(f"{source.document}: {link} leads to no file of the repository")
        copy = self.book / "files" / document
        os.makedirs(copy.parent, exist_ok=True)
        shutil.copyfile(self.root / document, copy)
        return posixpath.relpath(f"files/{document}", posixpath.dirname(source.page) or ".")

    def lead(self, source: Chapter) -> str:
        """The text of a chapter with its links led to their places."""
        text, done, parts = source.text, 0, []
        blotted = without_code(text)
        found = sorted([*links.LINK.finditer(blotted), *links.REFERENCE.finditer(blotted)], key=lambda one: one.start())
        for link in found:
            place = self.place(source, link[1])
            if place is None:
                words = text[link.start() : link.start(1)].removeprefix("[").rpartition("](")[0]
                parts += [text[done : link.start()], words]
                done = link.end()
            else:
                parts += [text[done : link.start(1)], place]
                done = link.end(1)
        return "".join([*parts, text[done:]])
