"""Fixtures of access: a scene that all tests of a file share."""

import pytest

from tests.access.scene import Scene, set_scene


@pytest.fixture(scope="module")
def scene(file_db: None) -> Scene:
    return set_scene()
