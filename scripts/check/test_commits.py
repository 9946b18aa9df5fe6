"""The check of commits can fail, and does not look green where it cannot look."""

import os
import subprocess
import unittest
from unittest import mock

import commits
import trees


def commit(tree, message: str) -> None:
    """A commit with this message."""
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(tree.root), *settings, "commit", "-q", "--allow-empty", "--cleanup=verbatim", "-m", message]
    subprocess.run(command, check=True, capture_output=True)


class Commits(unittest.TestCase):
    """In repositories made for it."""

    def test_messages(self):
        self.assertEqual(commits.problems("Refuse a replica that holds another vault\n\nBecause."), [])
        self.assertEqual(commits.problems("R" * 72), [])
        for bad in ["R" * 73, "lower case", "A full stop.", "WIP parts", "Fixup of it", "fixup! It", "A\nb", ""]:
            self.assertTrue(commits.problems(bad), bad)

    def test_only_commits_after_the_check_came_are_looked_at(self):
        with trees.of({commits.HERE: ""}) as tree:
            subprocess.run(["git", "-C", str(tree.root), "init", "-q"], check=True)
            commit(tree, "before, and bad.")
            subprocess.run(["git", "-C", str(tree.root), "add", "."], check=True)
            commit(tree, "brings it, and is bad.")
            commit(tree, "Good\n\nBody")
            self.assertEqual(commits.check(tree), ([], "1 commits"))
            commit(tree, "bad one")
            findings, _ = commits.check(tree)
            self.assertEqual([finding.problem.split(":")[1] for finding in findings], [" bad one"])

    def test_without_history_ci_fails_and_others_are_told(self):
        with trees.of({"a": ""}) as tree:
            with mock.patch.dict(os.environ, {"CI": "true"}):
                self.assertEqual(len(commits.check(tree)[0]), 1)
            with mock.patch.dict(os.environ, {"CI": ""}):
                findings, said = commits.check(tree)
        self.assertEqual(findings, [])
        self.assertIn("could not look", said)

    def test_a_shallow_clone_is_no_history(self):
        with trees.of({"a/b": ""}) as tree, trees.of({}) as clone:
            subprocess.run(["git", "-C", str(tree.root), "init", "-q"], check=True)
            commit(tree, "One")
            commit(tree, "Two")
            source = f"file://{tree.root}"
            subprocess.run(["git", "clone", "-q", "--depth", "1", source, str(clone.root)], check=True, capture_output=True)
            with self.assertRaises(commits.CannotLook):
                commits.messages(clone)


if __name__ == "__main__":
    unittest.main()
