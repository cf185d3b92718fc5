"""How far the stored secrets are encrypted with the newest ring key."""

from dataclasses import dataclass

from django.conf import settings

from taskruns.encryption import Ring
from taskruns.services.encryption import COLUMNS


@dataclass(frozen=True, slots=True)
class ColumnView:
    """One kind of secret: how many there are, and how many of them are encrypted with an older ring key."""

    name: str
    total: int
    behind: int

    @property
    def done(self) -> int:
        return self.total - self.behind


@dataclass(frozen=True, slots=True)
class EncryptionView:
    newest: int
    columns: tuple[ColumnView, ...]

    @property
    def is_done(self) -> bool:
        return not any(column.behind for column in self.columns)


def encryption_progress() -> EncryptionView:
    """Not cached: `reencrypt_credentials` may be running in another process."""
    newest = Ring(settings.ENCRYPTION_KEYS).newest
    columns = tuple(
        ColumnView(column.name, column.encrypted().count(), column.behind(newest).count()) for column in COLUMNS
    )
    return EncryptionView(newest, columns)
