"""The drills use commands and files that exist. What they prove takes minutes: `make drills`."""

import re

from tests.drills import __main__ as runner
from tests.drills.document import blocks
from tests.paths import ROOT

DRILLS = ROOT / "tests" / "drills"


def test_every_drill_says_what_it_does_and_within_what_time():
    assert len(runner.DRILLS) == 10
    for drill in runner.DRILLS.values():
        assert drill.WHAT
        assert 0 < drill.WITHIN <= 600


def test_every_block_that_a_drill_runs_is_in_the_guide():
    named = {
        name for path in DRILLS.glob("*.py") for name in re.findall(r'run_block\(\s*"([a-z-]+)"', path.read_text())
    }
    assert named
    assert named <= set(blocks())


def test_a_block_is_read_without_its_indentation():
    assert all(text == text.lstrip(" ") for text in blocks().values())


def test_make_lists_the_drills():
    assert re.search(r"^drills: .*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
