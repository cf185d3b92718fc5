"""The commands of `docs/operations.md`: blocks that begin with ```sh NAME."""

import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

from tests.paths import ROOT

DOCUMENT = ROOT / "docs" / "operations.md"
_BLOCK = re.compile(r"^( *)```sh ([a-z-]+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# No account of its own, as on most systems.
NOBODY = 65_534


@cache
def blocks() -> dict[str, str]:
    found = [(name, dedent(text)) for _, name, text in _BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))]
    assert len(found) == len(dict(found)), "two blocks have the same name"
    return dict(found)


def run_block(name: str, *, folder: Path, environment: Mapping[str, str], as_nobody: bool = False) -> str:
    """Run the commands of a block, stopping at the first that fails. Returns what they printed."""
    return run_shell(blocks()[name], folder=folder, environment=environment, as_nobody=as_nobody, what=name)


def run_shell(text: str, *, folder: Path, environment: Mapping[str, str], what: str, as_nobody: bool = False) -> str:
    who: dict[str, Any] = {}
    if as_nobody and os.geteuid() == 0:
        who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", text],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **who,
    )
    assert done.returncode == 0, f"{what} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
