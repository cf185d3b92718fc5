"""Display models of the page of a person's second factors."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

import qrcode
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.views.decorators.debug import sensitive_variables

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
class CodesPage:
    """New recovery codes. `text`: what is copied and downloaded; `file_url` holds it, so that no request is needed."""

    codes: tuple[str, ...]
    text: str
    file_url: str


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


@sensitive_variables()
def codes_page(codes: Sequence[str], *, email: str, now: datetime) -> CodesPage:
    created = Moment.of(now)
    head = f"Taskruns recovery codes of {email}\n{settings.SITE_URL}\n"
    text = f"{head}Created {created.text if created else ''}. Each code works once.\n\n" + "\n".join(codes) + "\n"
    return CodesPage(tuple(codes), text, f"data:text/plain;charset=utf-8,{quote(text)}")


def qr_code(text: str) -> QrCode:
    code = qrcode.QRCode(border=4)
    code.add_data(text)
    dots = code.get_matrix()
    path = "".join(f"M{x} {y}h1v1h-1z" for y, line in enumerate(dots) for x, is_dark in enumerate(line) if is_dark)
    return QrCode(len(dots), path)
