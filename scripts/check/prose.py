"""Comments and Markdown prose are at most 100 columns wide.

Columns are characters. A comment is a line that begins with the language's sign; what stands after
code is not looked at. Exempt is what cannot be broken: tables, fenced code, link definitions, a
single word or address, and the defaults that a TOML example shows as `#key = value`.
"""

import io
import re
import tokenize

import rust
import tree

COLUMNS = 100

HASH_FILES = (".toml", ".yml", ".yaml", ".service", ".timer", ".conf", ".gitignore", "Makefile", "tools.txt")
DEFAULT = re.compile(r"#\s?[\w.-]+\s*=")
TABLE_HEADER = re.compile(r"#\s?\[")
FENCE = re.compile(r"(?:>\s?)*(?:[-*+]\s+|\d+[.)]\s+)*(`{3,}|~{3,})")
LINK_DEFINITION = re.compile(r"\[[^\]]+\]:\s+\S+(?:\s+[\"(].*)?$")
MARKERS = re.compile(r"(?:[-*+>]\s+|\d+[.)]\s+|#+\s+)*")

Lines = list[tuple[int, str, str]]


def rust_comments(text: str) -> Lines:
    """Lines that are a comment: number, whole line, what the comment says."""
    lines, all_lines = [], text.split("\n")
    for kind, start, end in rust.tokens(text):
        if kind == "comment" and not text[text.rfind("\n", 0, start) + 1 : start].strip():
            first = tree.line_of(text, start)
            for number in range(first, tree.line_of(text, end) + 1):
                line = all_lines[number - 1]
                lines.append((number, line, re.sub(r"^\s*(?://[/!]?|/\*+!?|\*(?!\*))?\s?", "", line)))
    return lines


def python_comments(text: str) -> Lines:
    """As `rust_comments`."""
    every = tokenize.generate_tokens(io.StringIO(text).readline)
    return [
        (token.start[0], token.line.rstrip("\n"), token.string[1:].removeprefix(" "))
        for token in every
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    ]


def hash_comments(text: str) -> Lines:
    """As `rust_comments`, without shown defaults and the line that names the interpreter."""
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        comment = line.strip()
        is_shown = DEFAULT.match(comment) or TABLE_HEADER.match(comment) or comment.startswith("#!")
        if comment.startswith(("#", ";")) and not is_shown:
            lines.append((number, line, comment.lstrip("#;").removeprefix(" ")))
    return lines


def markdown(text: str) -> Lines:
    """Every line."""
    return [(number, line, line) for number, line in enumerate(text.split("\n"), 1)]


def too_wide(lines: Lines) -> list[int]:
    """Numbers of the lines that could be narrower."""
    wide, fence, last = [], None, 0
    for number, line, said in lines:
        words = said.strip()
        fence = None if number > last + 1 else fence
        last = number
        if found := FENCE.match(words):
            fence = found[1] if fence is None else None if found[1].startswith(fence) else fence
        elif fence is None and len(line.rstrip()) > COLUMNS and not is_unbreakable(words):
            wide.append(number)
    return wide


def is_unbreakable(words: str) -> bool:
    """A row of a table, a link definition, or one word."""
    return words.startswith("|") or bool(LINK_DEFINITION.match(words)) or " " not in MARKERS.sub("", words, count=1)


def reader(path: str, text: str):
    """How comments look in this file; `None` if nobody writes any."""
    if path.endswith(".rs"):
        return rust_comments
    if path.endswith(".md"):
        return markdown
    if path.endswith(".py"):
        return python_comments
    return hash_comments if path.endswith(HASH_FILES) or text.startswith("#!") else None


def check(files: tree.Tree) -> tuple[list[tree.Finding], str]:
    """Each line that is too wide is a finding."""
    findings, read, looked_at = [], 0, 0
    for path in files.paths:
        if not (path.endswith((".rs", ".md", ".py", *HASH_FILES)) or "." not in path.rpartition("/")[2]):
            continue
        text = files.read(path)
        if lines_of := reader(path, text):
            lines = lines_of(text)
            read += 1
            looked_at += len(lines)
            all_lines = text.split("\n")
            findings += [
                tree.Finding(path, number, f"{len(all_lines[number - 1].rstrip())} columns, more than {COLUMNS}")
                for number in too_wide(lines)
            ]
    return findings, f"{looked_at} lines of prose in {read} files"
