"""Collects the files of the corpus, and what the index says of each."""

import dataclasses


@dataclasses.dataclass
class File:
    """One file."""

    name: str
    kind: str
    place: dict
    data: bytes
    good: bool
    # What the index says of it beside that.
    more: dict


class Corpus:
    """Files in the order in which they are added."""

    def __init__(self) -> None:
        self.files: list[File] = []

    def good(self, kind: str, name: str, data: bytes, place: dict | None = None, **holds: object) -> None:
        """A file that readers must read, and something of what it holds."""
        more = {"holds": holds} if holds else {}
        self.files.append(File(f"{kind}-{name}", kind, place or {}, data, True, more))

    def bad(self, kind: str, name: str, data: bytes, rule: str, place: dict | None = None, word: str = "") -> None:
        """A file that breaks a rule. With `word`, readers must say that they do not know this word."""
        more = {"rule": rule} | ({"requires": word} if word else {})
        self.files.append(File(f"{kind}-{name}", kind, place or {}, data, False, more))
