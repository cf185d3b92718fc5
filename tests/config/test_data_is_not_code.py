"""Write access to the database or the queue does not run code in the panel."""

import base64
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.utils import timezone
from django.utils.crypto import salted_hmac
from huey.contrib.djhuey import HUEY

from taskruns.models import CacheEntry
from tests.paths import ROOT


class Planted:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that the planted pickle would create. The control shows that it does."""
    control = tmp_path / "control"
    pickle.loads(pickle.dumps(Planted(control)))
    assert control.exists()
    return tmp_path / "mark"


@pytest.fixture
def planted(mark: Path) -> bytes:
    return pickle.dumps(Planted(mark))


def test_pickle_in_the_cache_counts_as_absent(db: None, planted: bytes, mark: Path) -> None:
    cache.set("count", 3, 60)
    rows = CacheEntry.objects.filter(cache_key=":1:count")
    assert rows.update(value=base64.b64encode(planted).decode())
    assert cache.get("count", "absent") == "absent"
    assert cache.get_many(["count"]) == {}
    assert not mark.exists()
    cache.set("count", 4, 60)
    assert cache.get("count") == 4


@pytest.mark.parametrize("value", ["", "{", "gASVKg==", "[" * 100_000, "\x00"])
def test_unreadable_cache_value_counts_as_absent(db: None, value: str) -> None:
    if "\x00" in value and connection.vendor == "postgresql":
        value = "\\x00"
    cache.set("count", 3, 60)
    CacheEntry.objects.update(value=value)
    assert cache.get("count") is None


def test_pickle_in_the_queue_is_dropped(empty_queue: None, planted: bytes, mark: Path) -> None:
    HUEY.storage.enqueue(planted)
    with pytest.raises(ValueError, match=r"Separator|Signature"):
        HUEY.dequeue()
    HUEY.storage.add_to_schedule(planted, timezone.now().replace(tzinfo=None) - timedelta(minutes=1))
    assert not list(HUEY.read_schedule(timezone.now().replace(tzinfo=None)))
    assert not mark.exists()
    assert HUEY.dequeue() is None


def test_message_signed_with_another_key_is_dropped(empty_queue: None, planted: bytes, mark: Path) -> None:
    other = type(HUEY.serializer)(secret="x" * 32, salt="taskruns.queue")
    HUEY.storage.enqueue(other._sign(planted))
    with pytest.raises(ValueError, match="Signature"):
        HUEY.dequeue()
    assert not mark.exists()


def test_key_of_the_queue_comes_from_the_secret_key(empty_queue: None) -> None:
    """A key in the source code would be known to everyone."""
    derived = salted_hmac("taskruns.queue", "messages", secret=settings.SECRET_KEY, algorithm="sha256").hexdigest()
    ours = type(HUEY.serializer)(secret=derived, salt="taskruns.queue")
    assert HUEY.serializer.deserialize(ours.serialize({"one": 1})) == {"one": 1}


def test_nothing_of_ours_loads_a_pickle() -> None:
    own = [*ROOT.glob("taskruns/**/*.py"), *ROOT.glob("config/**/*.py")]
    assert [path for path in own if "import pickle" in path.read_text() or "import marshal" in path.read_text()] == []


# The cache itself


def test_add_succeeds_once_until_the_entry_expires(db: None) -> None:
    assert cache.add("code", True, 60)
    assert not cache.add("code", True, 60)
    CacheEntry.objects.update(expires=timezone.now() - timedelta(seconds=1))
    assert cache.get("code") is None
    assert cache.add("code", True, 60)


def test_cache_keeps_json_values(db: None) -> None:
    for value in (None, True, 3, 1.5, "text ä", [1, [2]], {"a": None}):
        cache.set("value", value, None)
        assert cache.get("value", "absent") == value
    with pytest.raises(TypeError):
        cache.set("value", object(), 60)
    assert cache.incr("n", 1) if cache.add("n", 1) else False
    assert cache.get("n") == 2
    assert cache.touch("n", 60)
    assert not cache.touch("missing", 60)
    assert cache.delete("n")
    assert not cache.delete("n")
    cache.clear()
    assert cache.get_many(["n", "value"]) == {}


def test_one_of_many_concurrent_adds_succeeds(committed: None) -> None:
    def add(_: int) -> bool:
        try:
            return bool(cache.add("code", True, 60))
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(24))) == 1
