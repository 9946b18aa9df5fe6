"""Links between documents lead somewhere; headings are unique in a file and go down one level at a
time.

Looked at are relative links and `#anchors` in Markdown, and in the runbooks that alert rules point
to. Nothing is fetched.
"""

import posixpath
import re
import urllib.parse

import markdown
import tree

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]*)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)", re.MULTILINE)
RUNBOOK = re.compile(r"(?:[\w./-]+/)?([A-Z]+\.md)#([\w-]+)")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def anchors(text: str) -> set[str]:
    """The anchors of a document."""
    found, times = set(), {}
    for _, _, heading in markdown.headings(markdown.split(text)[0]):
        name = markdown.anchor(heading)
        times[name] = times.get(name, -1) + 1
        found.add(f"{name}-{times[name]}" if times[name] else name)
    return found | set(re.findall(r"<a\s+(?:id|name)=\"([^\"]+)\"", text))


def problem(files: tree.Tree, path: str, link: str) -> str | None:
    """What is wrong with a link in a document."""
    if ELSEWHERE.match(link) or link.startswith("//"):
        return None
    target, _, anchor = link.partition("#")
    target = urllib.parse.unquote(target)
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else path
    is_folder = any(other.startswith(f"{wanted}/") for other in files.paths)
    if wanted not in files.paths and not is_folder and wanted != ".":
        return f"{link}: there is no {wanted}"
    if anchor and wanted.endswith(".md") and anchor not in anchors(files.read(wanted)):
        return f"{link}: {wanted} has no heading with the anchor #{anchor}"
    return None


def headings_of(path: str, prose: str) -> list[tree.Finding]:
    """What is wrong with the headings of a document."""
    findings, seen, above = [], {}, 0
    for line, level, heading in markdown.headings(prose):
        if heading in seen:
            findings.append(tree.Finding(path, line, f"the heading {heading!r} is in line {seen[heading]}, too"))
        if level > above + 1:
            findings.append(tree.Finding(path, line, f"the heading {heading!r} of level {level} follows one of level {above}"))
        seen.setdefault(heading, line)
        above = level
    return findings


def check(files: tree.Tree) -> tuple[list[tree.Finding], str]:
    """Each link that leads nowhere is a finding, and each heading out of order."""
    findings, links, documents = [], 0, files.ending(".md")
    for path in documents:
        prose, _ = markdown.split(files.read(path))
        findings += headings_of(path, prose)
        without_code = markdown.SPAN.sub(lambda span: re.sub(r"[^\n]", "x", span[0]), prose)
        for found in [*LINK.finditer(without_code), *REFERENCE.finditer(without_code)]:
            links += 1
            if wrong := problem(files, path, found[1]):
                findings.append(tree.Finding(path, tree.line_of(prose, found.start()), wrong))
    for path in files.below("config", ".yml"):
        text = files.read(path)
        for found in RUNBOOK.finditer(text):
            links += 1
            if wrong := problem(files, found[1], f"{found[1]}#{found[2]}"):
                findings.append(tree.Finding(path, tree.line_of(text, found.start()), wrong))
    return sorted(findings), f"{links} links in {len(documents)} documents and the alert rules"
