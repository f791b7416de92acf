"""A client of `hostile/dying.py`: raft in processes that end when they are told to."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "hostile"
ALL = "rename fsync unlink mkdir write"


class Dying:
    """A process that does things in forks of itself, which end at a chosen call; a context manager.

    Args:
        folder: where the library that ends processes is compiled to.
        modules: "torch", to have that imported once for all forks.
    """

    def __init__(self, folder, *modules):
        if not sys.platform.startswith("linux") or shutil.which("gcc") is None:
            pytest.skip("needs gcc, and a linker that preloads")
        library = folder / "faults.so"
        subprocess.run(
            ["gcc", "-O1", "-shared", "-fPIC", "-o", library, HERE / "faults.c", "-ldl"], check=True, timeout=60
        )
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "dying.py"), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(library)},
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(30)

    def do(self, what, home, *arguments, at=0, kinds=ALL, shadow=""):
        """Do something in the run directory of a folder; return how it ended, what was seen, error and output."""
        given = {"do": what, "run": str(home / "run"), "corpus": str(home / "corpus"), "log": str(home / "log")}
        given |= {"at": at, "kinds": kinds, "shadow": str(shadow), "arguments": arguments}
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())
