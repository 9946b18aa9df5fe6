"""Runs a command and tells what it took: seconds, processor time, and the largest memory of its whole process tree."""

import contextlib
import ctypes
import mmap
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PAGE = os.sysconf("SC_PAGE_SIZE")
# Looking costs time that the tool would have had: children are found thread by thread.
INTERVAL = 0.02
# So many looks until children are looked for again.
LOOKS = 10
# To tell shared pages apart costs milliseconds. It is done once a tree has grown by this factor
# since the last time.
GROWN = 1.03
MEMORY = (
    "of one process, the kernel's own mark of the most that was resident (VmHWM); of several, the resident memory of the tree, sampled"
    f" every {INTERVAL * 1000:.0f} ms, shared pages once (PSS, taken whenever the sum of their RSS is {(GROWN - 1) * 100:.0f} % above the"
    " largest so far); the largest of all rounds"
)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def tell(*command) -> str:
    """What a command says; if it fails, the run ends with what it complained of."""
    argv = [str(word) for word in command]
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{argv}: exit {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout


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


def _mark(pid: int) -> int:
    """The most that was ever resident of a process, as the kernel keeps it. (`ru_maxrss` would count the parent before `exec`.)"""
    try:
        with open(f"/proc/{pid}/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0


def _share(pid: int) -> int:
    """As `_resident`, but a page that is shared counts for each process in part."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            return next(int(line.split()[1]) << 10 for line in rollup if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return _resident(pid)


class Watch(threading.Thread):
    """Samples the memory of a process and its descendants until it is told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.looked_at, self.done = pid, 0, 0.0, threading.Event()
        self.tree = [pid]

    def run(self) -> None:
        number = 0
        self.look()
        while not self.done.wait(INTERVAL):
            if number % LOOKS == 0:
                self.tree = _tree(self.pid)
            number += 1
            self.look()

    def look(self) -> None:
        if len(self.tree) == 1:
            self.peak = max(self.peak, _mark(self.pid))
            return
        resident = sum(map(_resident, self.tree))
        # The shares are at most what is resident.
        if resident > max(self.peak, self.looked_at * GROWN):
            self.looked_at = resident
            self.peak = max(self.peak, sum(map(_share, self.tree)))


def available() -> int:
    """Bytes of memory that can be had."""
    with open("/proc/meminfo") as meminfo:
        return next(int(line.split()[1]) << 10 for line in meminfo if line.startswith("MemAvailable:"))


def warm() -> None:
    """Touches memory and gives it back. A virtual machine hands free memory back to its host and pays for it at the next
    touch (2.8 s a GiB have been seen): without this, a tool would pay for what the one before it gave back."""
    with mmap.mmap(-1, min(3 << 30, available() // 4)) as memory:
        view = ctypes.c_char.from_buffer(memory)
        ctypes.memset(ctypes.addressof(view), 1, len(memory))
        del view


_careful = [True]


@contextlib.contextmanager
def unmeasured():
    """Within, nobody looks at the figures: no time is spent on bringing the machine into the same state before each run."""
    _careful.append(False)
    try:
        yield
    finally:
        _careful.pop()


def run(
    command: list | str, environment: dict[str, str] | None = None, source: pathlib.Path | None = None, code: int = 0
) -> dict:
    """Runs a command to its end, which is `code`; `source` is its standard input. Gives its figures and its standard output."""
    argv = ["bash", "-o", "pipefail", "-c", command] if isinstance(command, str) else [str(word) for word in command]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as out, open(source or os.devnull, "rb") as stdin:
        if _careful[-1]:
            # What was written before is not this one's to wait for.
            os.sync()
            warm()
        began = time.monotonic()
        child = subprocess.Popen(
            argv, env={**os.environ, **(environment or {})}, stdin=stdin, stdout=out, stderr=said, process_group=0
        )
        try:
            watch = Watch(child.pid)
            watch.start()
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.monotonic() - began
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        watch.done.set()
        watch.join()
        said.seek(0)
        out.seek(0)
        if child.returncode != code:
            sys.exit(f"{argv}: exit {child.returncode}: {(said.read() + out.read()[-2000:]).decode(errors='replace')}")
        return {
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_rss_mib": watch.peak / 2**20,
            "output": out.read(),
        }


def medians(results: list[dict]) -> dict:
    """Figure by figure; memory is the largest that was seen. With the seconds of each round, to show how far they lie apart."""
    keys = [key for key in results[0] if key != "output" and all(result.get(key) is not None for result in results)]
    pick = {"peak_rss_mib": max}
    found = {key: pick.get(key, statistics.median)(result[key] for result in results) for key in keys}
    return {**found, "seconds_of_rounds": [result["seconds"] for result in results]}


def case(name: str, tools: dict[str, list[dict]], limit: float | None = None, **also) -> dict:
    """One case of the results: `tools` holds what each tool took. Ratios are the peer's figure over Lifeboat's: above 1 the
    peer took more. `limit` are the seconds that the machine needs at least, where that was measured."""
    figures = {tool: medians(results) for tool, results in tools.items()}
    own = figures.pop("lifeboat")
    found = {
        "name": name,
        "lifeboat": own,
        "peers": figures,
        "ratio": {tool: peer["seconds"] / own["seconds"] for tool, peer in figures.items()},
        "cpu_ratio": {tool: peer["cpu_seconds"] / max(own["cpu_seconds"], 0.001) for tool, peer in figures.items()},
        "limit_seconds": limit,
        "efficiency": limit / own["seconds"] if limit is not None else None,
    }
    return {**found, "also": also} if also else found
