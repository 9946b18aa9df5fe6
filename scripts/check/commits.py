"""Subjects of commits are short, begin with a capital, end without a full stop, and stand alone.

Looked at are the commits after the one that brought this file. A clone without its history cannot
be looked at: in CI that is a failure, since a check that did not run must not look green; elsewhere
it is said.
"""

import os
import re
import subprocess

import tree

COLUMNS = 72
HERE = "scripts/check/commits.py"
UNFINISHED = re.compile(r"(?:wip|fixup|squash|amend|tmp|todo)\b", re.IGNORECASE)


class CannotLook(Exception):
    """The history is not there."""


def git(files: tree.Tree, *arguments: str) -> str:
    """What git answers about the tree."""
    command = ["git", "-C", str(files.root), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise CannotLook("there is no git") from None
    except subprocess.CalledProcessError as error:
        raise CannotLook(error.stderr.strip().splitlines()[0]) from None


def messages(files: tree.Tree) -> list[tuple[str, str]]:
    """The commits to look at: short name and message."""
    if not (files.root / ".git").exists():
        raise CannotLook("this is no git repository")
    if git(files, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise CannotLook("this clone is shallow")
    introduced = git(files, "log", "--diff-filter=A", "--format=%H", "--", HERE).split()
    if not introduced:
        return []
    log = git(files, "log", "--format=%h%n%B%x00", f"{introduced[-1]}..HEAD")
    entries = [entry.strip("\n").partition("\n") for entry in log.split("\0")]
    return [(name, message) for name, _, message in entries if name]


def problems(message: str) -> list[str]:
    """What is wrong with a commit's message."""
    subject, *body = message.split("\n")
    found = []
    if len(subject) > COLUMNS:
        found.append(f"a subject of {len(subject)} characters, more than {COLUMNS}")
    if not subject[:1].isupper():
        found.append("a subject that does not begin with a capital letter")
    if subject.endswith("."):
        found.append("a subject that ends with a full stop")
    if UNFINISHED.match(subject):
        found.append("a subject of unfinished work")
    if body and body[0].strip():
        found.append("no empty line below the subject")
    return found


def check(files: tree.Tree) -> tuple[list[tree.Finding], str]:
    """Each problem of a commit is a finding."""
    try:
        looked_at = messages(files)
    except CannotLook as reason:
        said = f"could not look, as {reason}"
        is_ci = os.environ.get("CI", "") not in ("", "0", "false")
        return ([tree.Finding(HERE, 1, f"{said}; CI needs a full clone")] if is_ci else []), said
    findings = [
        tree.Finding(f"commit {name}", 1, f"{problem}: {message.splitlines()[0] if message else ''}")
        for name, message in looked_at
        for problem in problems(message)
    ]
    return findings, f"{len(looked_at)} commits"
