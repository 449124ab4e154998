"""A real server in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
SERVE = [sys.executable, "-m", "service.cli", "serve"]


def environment(**settings: str) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SEGDEPTH_")}
    return {**outside, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **settings}


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    first_output: str
    """What it printed before it listened."""
    later: list[str]
    reader: threading.Thread
    """Takes what it prints from then on, into `later`: a pipe that nobody empties stops the server when it is full."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait_ready(self) -> None:
        for _ in range(300):
            if httpx.get(f"{self.url}/health/ready").status_code == 200:
                return
            time.sleep(0.1)
        raise AssertionError("the server did not get ready")

    def stop(self) -> tuple[int, str]:
        """SIGTERM; the exit code and what it printed since the start."""
        self.process.terminate()
        return self.ended(30)

    def ended(self, timeout_s: float) -> tuple[int, str]:
        """Wait for its end; the exit code and what it printed since the start."""
        code = self.process.wait(timeout_s)
        self.reader.join()
        return code, "".join(self.later)


@contextmanager
def start(*arguments: str, command: Sequence[str] = SERVE, **settings: str) -> Iterator[Server]:
    """`segdepth serve` on a free port; it listens when this yields, but may not be ready."""
    process = subprocess.Popen(
        [*command, "--port", "0", *arguments],
        cwd=ROOT,
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    reader = None
    try:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"listens on (http://\S+)", line):
                later: list[str] = []
                reader = threading.Thread(target=later.extend, args=(process.stdout,), daemon=True)
                reader.start()
                yield Server(process, found[1], "".join(lines[:-1]), later, reader)
                break
        else:
            raise AssertionError("the server ended: " + "".join(lines))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if reader:
            reader.join()
        if process.stdout:
            process.stdout.close()


def run_to_end(command: list[str], **settings: str) -> tuple[int, str]:
    """A command that is to end by itself: its exit code and its stderr."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


def wait_for(condition: Callable[[], bool], tries: int = 200) -> None:
    """Until it holds, asked every 50 ms."""
    for _ in range(tries):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")
