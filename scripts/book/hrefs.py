"""Every link of the built book leads somewhere: to a file of the book, and to an anchor that this
file has. Links to other sites are not followed.
"""

import html.parser
import pathlib
import urllib.parse


class Page(html.parser.HTMLParser):
    """The anchors of a page, and what it links to or loads."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[int, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in ("href", "src") and value and tag != "base":
                self.links.append((self.getpos()[0], value))


def check(book: pathlib.Path) -> tuple[list[str], int]:
    """What leads nowhere, and how many links were looked at."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(book.rglob("*.html"))}
    wrong, count = [], 0
    for path, page in pages.items():
        # This page may be shown for any address, so its links are from the root.
        base = book if path.name == "404.html" else path.parent
        for line, link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            target = (base / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            at = f"{path.relative_to(book)}:{line}: {link}"
            if not target.is_file() or not target.is_relative_to(book):
                wrong.append(f"{at}: the book has no such file")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                wrong.append(f"{at}: the page has no such anchor")
    return wrong, count
