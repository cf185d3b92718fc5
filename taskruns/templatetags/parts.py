"""Template tags that every template may use without loading them (`builtins` in the settings): style sheets, icons,
times, texts from Arize or people, and parts of the board. Each process caches these parts, because they depend only on
their arguments.
"""

import html
import re
from collections.abc import Hashable, Iterable
from functools import lru_cache

from django import template
from django.conf import settings
from django.forms import BoundField
from django.template import Context, Node, NodeList
from django.template.base import Parser, TextNode, Token
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from taskruns.models import Status
from taskruns.pages.board.choices import Choice
from taskruns.pages.board.rows import RunRow
from taskruns.pages.icons import ICONS
from taskruns.pages.values import Moment, StatusMark

register = template.Library()
ROWS = 4096  # of about 2 kB each
PARTS = 64  # the largest is the form of the filters, with an entry for each task
SELECTS = 256  # of at most 1,000 entries
SHORT = 60  # characters that fit into two lines almost everywhere
# Control characters, and those that change the direction of the text after them. Line breaks and tabs are shown.
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_BREAK = re.compile(r"\s*\n\s*")
_BREAK_BESIDE_TAG = re.compile(r"^\s*\n\s*|\s*\n\s*$|(?<=>)\s*\n\s*|\s*\n\s*(?=<)")


@register.simple_tag
def stylesheets(*names: str) -> SafeString:
    """Links to our style sheets. Every page has those of the frame; `block styles` adds its own."""
    urls = ((static(f"taskruns/{name}.css"),) for name in names)
    return format_html_join("\n", '<link rel="stylesheet" href="{}">', urls)


@register.simple_tag
@lru_cache(maxsize=len(ICONS) * 2)
def icon(name: str, label: str = "") -> SafeString:
    """An icon from the page's sprite. `label`: the text for screen readers, if there is no text beside it."""
    if name not in ICONS:
        raise ValueError(f"There is no icon “{name}”.")
    role = format_html('role="img" aria-label="{}"', label) if label else SafeString('aria-hidden="true"')
    return format_html('<svg class="icon" {}><use href="#i-{}" /></svg>', role, name)


@register.simple_tag
def icon_sprite() -> SafeString:
    """All icons, once per page: `icon` refers to them."""
    return _sprite() if settings.DEBUG else _known_sprite()


@register.simple_tag
def moment(at: Moment | None, otherwise: str = "\N{EN DASH}", *, mark: str = "") -> SafeString:
    """A time that the script shows as `5 min ago`. `mark`: adds a data attribute (`started`: `data-started`)."""
    if at is None:
        return format_html('<span class="quiet">{}</span>', otherwise)
    mark = f" data-{mark}" if mark else ""
    return format_html('<time datetime="{}" title="{}" data-relative{}>{}</time>', at.iso, at.text, mark, at.text)


@register.simple_tag
def exact_time(at: Moment | None) -> SafeString:
    """A time that the script does not change."""
    if at is None:
        return SafeString()
    return format_html('<time datetime="{}">{}</time>', at.iso, at.text)


@register.simple_tag
def ago(at: Moment) -> SafeString:
    """`5 min ago` beside an exact time: empty until the script fills it."""
    return format_html('<time datetime="{}" data-relative></time>', at.iso)


@register.filter
def text(value: object) -> SafeString:
    """A text from Arize or a person, whose direction does not affect what is beside it."""
    return format_html("<bdi>{}</bdi>", visible(str(value)))


@register.filter
def quoted(value: object) -> SafeString:
    return text(f"“{value}”")


@register.filter
def word(mark: StatusMark) -> SafeString | str:
    """The word of a status: Arize's own word if the panel does not know the status."""
    return text(mark.word) if mark.value == Status.UNKNOWN else mark.word


@register.filter
def texts(values: Iterable[object]) -> SafeString:
    """Several texts from Arize or people, separated by commas."""
    return format_html_join(", ", "{}", ((text(value),) for value in values))


@register.filter
def sentence(value: object) -> SafeString:
    """A sentence of the panel that may contain a text from Arize or a person."""
    return format_html('<bdi dir="ltr">{}</bdi>', visible(str(value)))


@register.filter
def plain(value: object) -> str:
    """A text from Arize or a person for a place that allows no elements: an attribute, a title or an option."""
    return visible(str(value))


@register.simple_tag
def fields(pairs: Iterable[tuple[str, str]]) -> SafeString:
    """Names and values of a list. A page of the audit log has thousands, for which a loop in the template is slow."""
    escape = html.escape  # Django's own is the same behind several wrappers
    return SafeString(
        "".join(
            f"<dt><code>{escape(visible(name))}</code></dt><dd><bdi>{escape(visible(value))}</bdi></dd>"
            for name, value in pairs
        )
    )


@register.simple_tag
def full(value: str) -> SafeString:
    """The `title` of an element whose text is clamped, if it may be too long for two lines."""
    return format_html(' title="{}"', visible(value)) if len(value) > SHORT else SafeString()


@register.simple_tag
def control(field: BoundField) -> SafeString:
    """The control of a field. The first wrong one of a form gets the focus instead of the one that usually has it."""
    wrong = next((name for name in field.form.fields if name in field.form.errors), "")
    return field.as_widget(attrs={"autofocus": field.name == wrong} if wrong else {})


@register.tag
def tight(parser: Parser, _token: Token) -> Node:
    """Until `endtight`, drop line breaks beside a tag, so that lines can be wrapped where a space would be visible.
    Elsewhere, for example between two attributes, print one space. Done when the template is compiled, not per page.
    """
    nodes = parser.parse(("endtight",))
    parser.delete_first_token()
    for node in nodes.get_nodes_by_type(TextNode):
        node.s = _BREAK.sub(" ", _BREAK_BESIDE_TAG.sub("", node.s))  # type: ignore[attr-defined] # a text node's text
    return _Tight(nodes)


class _Tight(Node):
    def __init__(self, nodelist: NodeList) -> None:
        self.nodelist = nodelist

    def render(self, context: Context) -> SafeString:
        return self.nodelist.render(context)


@register.simple_tag
def run_row(row: RunRow) -> SafeString:
    """A row of the board, cached: most rows of a poll have not changed."""
    return _row(row) if settings.DEBUG else _known_row(_Versioned(row))


@register.simple_tag
def kept(name: str, **values: Hashable) -> SafeString:
    """The template `name` with nothing but these values, cached: several pages in a row show the same."""
    return (_part if settings.DEBUG else _known_part)(name, **values)


@register.simple_tag
def select(name: str, choices: tuple[Choice, ...], every: str) -> SafeString:
    """A filter's list, cached: it may have an entry for each task. `every`: the text of the entry for no choice."""
    return (_select if settings.DEBUG else _known_select)(name, choices, every)


def visible(text: str) -> str:
    """Replace hidden characters by a symbol (`␀`) or their number."""
    return _HIDDEN.sub(_symbol, text)


def _symbol(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else f"\\u{code:04x}"


class _Versioned:
    """A cache key: two rows with the same version are equal."""

    __slots__ = ("row",)

    def __init__(self, row: RunRow) -> None:
        self.row = row

    def __hash__(self) -> int:
        return hash(self.row.version)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Versioned) and self.row.version == other.row.version


def _row(row: RunRow) -> SafeString:
    return render_to_string("taskruns/board/_row.html", {"row": row})


def _part(name: str, **values: Hashable) -> SafeString:
    return render_to_string(f"taskruns/{name}.html", values)


def _select(name: str, choices: tuple[Choice, ...], every: str) -> SafeString:
    return render_to_string("taskruns/board/_select.html", {"name": name, "choices": choices, "every": every})


def _sprite() -> SafeString:
    return render_to_string("taskruns/_icon_sprite.html", {"icons": ICONS})


@lru_cache(maxsize=ROWS)
def _known_row(versioned: _Versioned) -> SafeString:
    return _row(versioned.row)


_known_part = lru_cache(maxsize=PARTS)(_part)
_known_select = lru_cache(maxsize=SELECTS)(_select)
_known_sprite = lru_cache(maxsize=1)(_sprite)
