"""Runs a command and tells what it took: seconds, processor time, and the largest memory of its whole process tree."""

import ctypes
import mmap
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PAGE = os.sysconf("SC_PAGE_SIZE")
INTERVAL = 0.005


def _tree(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                for child in children.read().split():
                    found += _tree(int(child))
    except OSError:
        pass  # It has ended meanwhile.
    return found


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


class Watch(threading.Thread):
    """Samples the resident memory of a process and its descendants until it is told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.done = pid, 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(INTERVAL):
            self.peak = max(self.peak, sum(_resident(pid) for pid in _tree(self.pid)))


def warm(gib: float = 3) -> None:
    """Touches memory and gives it back. A virtual machine hands free memory back to its host and pays for it at the next
    touch (2.8 s a GiB have been seen): without this, a tool would pay for what the one before it gave back."""
    with mmap.mmap(-1, int(gib * 2**30)) as memory:
        view = ctypes.c_char.from_buffer(memory)
        ctypes.memset(ctypes.addressof(view), 1, len(memory))
        del view


def run(command: list | str, environment: dict[str, str] | None = None, source: pathlib.Path | None = None,
        user: int | None = None) -> dict:
    """Runs a command to its success; `source` is its standard input. Gives its figures and its standard output."""
    argv = ["bash", "-o", "pipefail", "-c", command] if isinstance(command, str) else [str(word) for word in command]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as out, open(source or os.devnull, "rb") as stdin:
        warm()
        began = time.monotonic()
        child = subprocess.Popen(argv, env={**os.environ, **(environment or {})}, stdin=stdin, stdout=out, stderr=said, user=user)
        watch = Watch(child.pid)
        watch.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        watch.done.set()
        watch.join()
        if child.returncode != 0:
            said.seek(0)
            sys.exit(f"{argv}: exit {child.returncode}: {said.read().decode(errors='replace')}")
        out.seek(0)
        output = out.read()
    # A process that was shorter than the sampling interval is known by its own peak alone.
    peak = max(watch.peak, usage.ru_maxrss * 1024 if not watch.peak else 0)
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_mib": peak / 2**20,
        "output": output,
    }


def medians(results: list[dict]) -> dict:
    """Figure by figure; memory is the largest that was seen."""
    keys = [key for key in results[0] if key != "output" and results[0][key] is not None]
    pick = {"peak_rss_mib": max}
    return {key: pick.get(key, statistics.median)(result[key] for result in results) for key in keys}


def case(name: str, tools: dict[str, list[dict]], limit: float | None = None, **also) -> dict:
    """One case of the results: `tools` holds what each tool took, Lifeboat's first; `limit` in seconds."""
    figures = {tool: medians(results) for tool, results in tools.items()}
    own = figures.pop("lifeboat")
    found = {
        "name": name,
        "lifeboat": own,
        "peers": figures,
        "ratio": {tool: peer["seconds"] / own["seconds"] for tool, peer in figures.items()},
        "cpu_ratio": {tool: own["cpu_seconds"] / max(peer["cpu_seconds"], 0.001) for tool, peer in figures.items()},
    }
    if limit is not None:
        found["limit_seconds"], found["efficiency"] = limit, limit / own["seconds"]
    if also:
        found["also"] = also
    return found
