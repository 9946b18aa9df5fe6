"""The check of links can fail, and follows what leads somewhere."""

import unittest

import links
import trees


def found(**files: str) -> list[str]:
    """What it finds in these documents, and in alert rules."""
    suffix = {"config/rules": ".yml"}
    paths = {name.replace("__", "/"): text for name, text in files.items()}
    with trees.of({path + suffix.get(path, ".md"): text for path, text in paths.items()}) as tree:
        return [str(finding) for finding in links.check(tree)[0]]


class Links(unittest.TestCase):
    """On small sets of documents."""

    def test_good_ones(self):
        text = "# A\n## B `c`, d?\n### x\n## B.\n[a](#b-c-d) [b](B.md#c-1) [c](sub) [d](https://x/y)\n`[e](no)`\n```\n[f](no)\n# A\n```\n"
        self.assertEqual(found(A=text, B="# C\n## C!\n", sub__C="# D\n[up](../A.md) [[x](../B.md)]"), [])

    def test_files_and_anchors_that_are_not_there(self):
        lines = found(A="# A\n[b](B.md)\n[c](#d)\n\n[e]: x/y.md\n[f](C.md#g)", C="# H\n")
        self.assertEqual([line.split(" ")[0] for line in lines], ["A.md:2:", "A.md:3:", "A.md:5:", "A.md:6:"])

    def test_headings_out_of_order_or_twice(self):
        self.assertEqual(len(found(A="# A\n### B\n## C\n## C\n")), 2)

    def test_runbooks_of_alerts(self):
        rules = "runbook_url: https://x/y/OPERATIONS.md#gone\nother: OPERATIONS.md#here"
        self.assertEqual(len(found(OPERATIONS="# Here", config__rules=rules)), 1)


if __name__ == "__main__":
    unittest.main()
