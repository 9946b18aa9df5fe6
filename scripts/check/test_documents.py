"""The check of documents can fail, and knows what is there."""

import unittest

import documents
import trees

FILES = {
    "Makefile": "demo: setup\n\ttrue\nsetup:\nbench:\n",
    "systemd/lifeboatd.service": "",
    "systemd/lifeboat-drill@.timer": "",
    "systemd/lifeboat-drill@.service": "",
    "config/minimal.toml": "",
}


def found(document: str) -> list[str]:
    """What it finds in a document."""
    with trees.of({**FILES, "A.md": document}) as tree:
        return [finding.problem.split(":")[0] for finding in documents.check(tree)[0]]


class Documents(unittest.TestCase):
    """On small documents."""

    def test_what_is_there(self):
        text = """Then make sure that `make demo SIZE=64 CASES="first unchanged" setup` ran, with `systemctl reload lifeboatd`
            and `lifeboat-drill@DATASET.timer` and `systemctl edit lifeboat-drill@`, after `config/minimal.toml`, `lifeboat list`.
            \n```\nsudo make bench A=b  # make nothing\nsudo systemctl enable --now lifeboat-drill@shop.timer\n```\n"""
        self.assertEqual(found(text), [])

    def test_what_is_not(self):
        text = "`make deom` `systemctl stop lifeboat` `lifeboat-prune@shop.service` `systemd/x.service`\n```\nmake setup tset && make A=b x\n```\n"
        self.assertEqual(
            found(text),
            ["lifeboat-prune@shop.service", "lifeboat", "make deom", "systemd/x.service", "make tset", "make x"],
        )


if __name__ == "__main__":
    unittest.main()
