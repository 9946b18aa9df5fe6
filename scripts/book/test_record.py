"""The recorder draws what a terminal would show."""

import importlib.machinery
import importlib.util
import pathlib
import unittest

LOADER = importlib.machinery.SourceFileLoader("record", str(pathlib.Path(__file__).resolve().parents[1] / "record"))
record = importlib.util.module_from_spec(importlib.util.spec_from_loader("record", LOADER))
LOADER.exec_module(record)


def shown(*pieces: bytes) -> list[str]:
    """The lines of what came in these pieces."""
    return ["".join(character for character, _ in line) for line in record.lines(list(enumerate(pieces)))[0]]


class Record(unittest.TestCase):
    """On small outputs."""

    def test_a_return_writes_over_a_line_and_a_long_line_goes_on(self):
        self.assertEqual(shown(b"10 %\r99", b"\r\n" + b"x" * 101 + b"\r\n\r\n"), ["99 %", "x" * 100, "x"])

    def test_bytes_and_sequences_come_in_parts(self):
        self.assertEqual(shown("é".encode()[:1], "é".encode()[1:] + b"\x1b[2K\x1b]0;title\x07!\r\n"), ["é!"])

    def test_lines_keep_colour_and_time(self):
        found, times = record.lines([(1.0, b"a\r\n\x1b[1;32mb\x1b[0m<\r\n"), (9.0, b"\x1b[31mc")])
        self.assertEqual(record.drawn(found[1]), '<tspan class="b c2">b</tspan>&lt;')
        self.assertEqual(times, [1.0, 1.0, 9.0])
        self.assertIn('animation-delay:8.00s"><tspan class="c1">c<', record.picture(found, times, "x"))


if __name__ == "__main__":
    unittest.main()
