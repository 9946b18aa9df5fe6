"""Markdown as the checks read it: lines with fenced code apart, code spans, headings and their
anchors as GitHub makes them.
"""

import re

FENCE = re.compile(r"\s*(?:>\s?)*(`{3,}|~{3,})")
SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")


def split(text: str) -> tuple[str, list[tuple[int, str]]]:
    """The text without fenced code (its lines stay, empty), and the fenced lines with their numbers."""
    prose, fenced, fence = [], [], None
    for number, line in enumerate(text.split("\n"), 1):
        found = FENCE.match(line)
        if found and (fence is None or found[1].startswith(fence)):
            fence = found[1] if fence is None else None
            prose.append("")
        elif fence is not None:
            fenced.append((number, line))
            prose.append("")
        else:
            prose.append(line)
    return "\n".join(prose), fenced


def spans(prose: str) -> list[tuple[int, str]]:
    """Code spans of text that `split` left: line and content, on one line."""
    return [(prose.count("\n", 0, found.start()) + 1, " ".join(found[2].split())) for found in SPAN.finditer(prose)]


def headings(prose: str) -> list[tuple[int, int, str]]:
    """Headings: line, level, text."""
    found = []
    for number, line in enumerate(prose.split("\n"), 1):
        if match := HEADING.match(line):
            found.append((number, len(match[1]), match[2]))
    return found


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
