"""Display models of the page of a person's second factors."""

from dataclasses import dataclass

import qrcode
from allauth.mfa.models import Authenticator

from .values import Moment


@dataclass(frozen=True, slots=True)
class FactorRow:
    id: int
    word: str
    name: str
    added: Moment | None
    used: Moment | None


@dataclass(frozen=True, slots=True)
class FactorsPage:
    """`codes_left` is None if the recovery codes cannot be decrypted. `is_required`: the person's role requires one."""

    rows: tuple[FactorRow, ...]
    has_app: bool
    codes_left: int | None
    has_codes: bool
    is_required: bool
    is_missing: bool
    role: str


@dataclass(frozen=True, slots=True)
class QrCode:
    """An SVG path in a square of `size` modules, including the quiet zone."""

    size: int
    path: str


def factor_row(row: Authenticator, word: str) -> FactorRow:
    return FactorRow(
        id=row.pk,
        word=word,
        name=row.data.get("name", ""),
        added=Moment.of(row.created_at),
        used=Moment.of(row.last_used_at),
    )


def qr_code(text: str) -> QrCode:
    code = qrcode.QRCode(border=4)
    code.add_data(text)
    dots = code.get_matrix()
    path = "".join(f"M{x} {y}h1v1h-1z" for y, line in enumerate(dots) for x, is_dark in enumerate(line) if is_dark)
    return QrCode(len(dots), path)
