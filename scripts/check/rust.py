"""Just enough of Rust's grammar for the checks: what is code, what is a comment, what is only there
for tests.

Nothing here changes an offset: what is taken out is replaced by blanks, so lines and columns stay.
"""

import re

TOKEN = re.compile(
    r"""
    (?P<line>//[^\n]*)
  | (?P<block>/\*)
  | (?P<raw>\b(?:br|cr|r)(?P<hashes>\#*)"(?:.|\n)*?"(?P=hashes))
  | (?P<string>(?:\b[bc])?"(?:[^"\\]|\\(?:.|\n))*")
  | (?P<char>(?:\bb)?'(?:[^'\\\n]|\\(?:u\{[^}]*\}|x..|.))')
""",
    re.VERBOSE,
)
BLOCK_EDGE = re.compile(r"/\*|\*/")
ONLY_FOR_TESTS = re.compile(r"#\[\s*cfg\(\s*(?:test|all\(\s*test\b[^\]]*)\s*\)\s*\]")
ATTRIBUTE = re.compile(r"\s*#\[")
ITEM = re.compile(
    r"\s*(?:pub\b(?:\s*\([^)]*\))?\s*)?"
    r"(?:(?:mod|use|impl|struct|enum|union|trait|type|static|let|macro_rules|const|fn)\b|(?:async|unsafe|extern)\s)"
)
OPENING, CLOSING = "([{", ")]}"


def blanked(text: str, start: int, end: int) -> str:
    """The text with that part made of spaces; its line ends stay."""
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def tokens(text: str):
    """Comments and literals in order: `(kind, start, end)`, kind being `comment` or `literal`."""
    at = 0
    while found := TOKEN.search(text, at):
        end = found.end()
        if found["block"]:
            depth = 1
            while depth and (edge := BLOCK_EDGE.search(text, end)):
                depth += 1 if edge[0] == "/*" else -1
                end = edge.end()
            end = end if depth == 0 else len(text)
        yield "comment" if found["line"] or found["block"] else "literal", found.start(), end
        at = end


def code(text: str) -> str:
    """The text without comments and literals."""
    parts, last = [], 0
    for _, start, end in tokens(text):
        parts += [text[last:start], re.sub(r"[^\n]", " ", text[start:end])]
        last = end
    return "".join(parts) + text[last:]


def closing(text: str, opening: int) -> int:
    """Where what opens at `opening` closes; the end of the text if it does not."""
    depth = 0
    for at in range(opening, len(text)):
        if text[at] in OPENING:
            depth += 1
        elif text[at] in CLOSING:
            depth -= 1
            if depth == 0:
                return at
    return len(text)


def item_end(text: str, start: int) -> int:
    """Where the item, field or variant that begins at `start` ends."""
    is_item = ITEM.match(text, start)
    at = start
    while at < len(text):
        if text[at] in CLOSING:
            return at
        if text[at] == ";" or (text[at] == "," and not is_item):
            return at + 1
        if text[at] in OPENING:
            is_block = text[at] == "{"
            at = closing(text, at)
            if is_block and is_item:
                # `use a::{b};` and `const A: B = B { … };` go on to their semicolon.
                goes_on = re.match(r"\s*;", text[at + 1 :])
                return at + 1 + (goes_on.end() if goes_on else 0)
        at += 1
    return at


def skip_attributes(text: str, start: int) -> int:
    """Where what follows the attributes at `start` begins."""
    while found := ATTRIBUTE.match(text, start):
        start = closing(text, found.end() - 1) + 1
    return start


def without_tests(text: str) -> tuple[str, set[str]]:
    """Code (of `code`) without items for tests alone, and the names of the modules `mod x;` among these."""
    modules = set()
    at = 0
    while found := ONLY_FOR_TESTS.search(text, at):
        item = skip_attributes(text, found.end())
        end = item_end(text, item)
        if module := re.match(r"\s*(?:pub\b(?:\s*\([^)]*\))?\s*)?mod\s+(\w+)\s*;", text[item:end]):
            modules.add(module[1])
        text = blanked(text, found.start(), end)
        at = end
    return text, modules


def is_test_file(path: str) -> bool:
    """Whether cargo and custom make this file a test: `tests.rs`, `tests/`, `benches/`."""
    folders = path.split("/")
    return folders[-1] == "tests.rs" or bool({"tests", "benches", "fuzz_targets"} & set(folders[1:-1]))
