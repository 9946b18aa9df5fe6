"""The check of metrics can fail, on either side."""

import unittest

import metrics
import trees

CODE = 'const A: &str = "lifeboat_a_total"; // "lifeboat_comment"\nfn b() { gauge("lifeboat_b", "lifeboat_ is no name"); }\n'
TABLE = "# O\n\n## Metrics\n\n| Metric | Meaning |\n| --- | --- |\n| `lifeboat_a_total`, `lifeboat_b` | not `lifeboat_x` |\n"


def found(code: str, table: str) -> list[str]:
    """What it finds."""
    with trees.of({"daemon/src/metrics.rs": code, "restore-cli/src/main.rs": "", "OPERATIONS.md": table}) as tree:
        return [str(finding) for finding in metrics.check(tree)[0]]


class Metrics(unittest.TestCase):
    """On a small program and its table."""

    def test_both_are_the_same(self):
        self.assertEqual(found(CODE, f"{TABLE}\n## More\n\n| `lifeboat_elsewhere` |\n"), [])

    def test_a_metric_that_one_side_lacks(self):
        self.assertEqual(len(found(CODE, TABLE.replace(", `lifeboat_b`", ""))), 1)
        self.assertEqual(found(CODE.replace("lifeboat_b", "lifeboat_c"), TABLE)[1][:36], "daemon/src/metrics.rs:2: lifeboat_c ")
        self.assertEqual(len(found(CODE, "# O\n")), 2)


if __name__ == "__main__":
    unittest.main()
