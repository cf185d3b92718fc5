"""The parts that every template may use without loading them (`builtins` in the settings): style sheets, icons, times,
and the pieces of the board that are rendered once a process, because they depend on nothing but what they are given.
"""

import re
from functools import lru_cache

from django import template
from django.conf import settings
from django.template import Context, Node, NodeList
from django.template.base import Parser, TextNode, Token
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from taskruns.pages.board.choices import Choice
from taskruns.pages.board.rows import RunRow
from taskruns.pages.icons import ICONS
from taskruns.pages.values import Moment

register = template.Library()
ROWS = 4096  # of some 2 kB each
SELECTS = 256  # of at most 1,000 entries
_BREAK = re.compile(r"\s*\n\s*")
_BREAK_BESIDE_TAG = re.compile(r"^\s*\n\s*|\s*\n\s*$|(?<=>)\s*\n\s*|\s*\n\s*(?=<)")


@register.simple_tag
def stylesheets(*names: str) -> SafeString:
    """Links to style sheets of ours. Every page has those of the frame; `block styles` adds those of its subject."""
    urls = ((static(f"taskruns/{name}.css"),) for name in names)
    return format_html_join("\n", '<link rel="stylesheet" href="{}">', urls)


@register.simple_tag
@lru_cache(maxsize=len(ICONS) * 2)
def icon(name: str, label: str = "") -> SafeString:
    """A picture of the page's sprite. `label`: its words for who does not see it, where none stand beside it."""
    if name not in ICONS:
        raise ValueError(f"There is no icon “{name}”.")
    role = format_html('role="img" aria-label="{}"', label) if label else SafeString('aria-hidden="true"')
    return format_html('<svg class="icon" {}><use href="#i-{}" /></svg>', role, name)


@register.simple_tag
def icon_sprite() -> SafeString:
    """All icons, once a page: `icon` only says which."""
    return _sprite() if settings.DEBUG else _known_sprite()


@register.simple_tag
def moment(at: Moment | None, otherwise: str = "\N{EN DASH}", *, mark: str = "") -> SafeString:
    """A time that the script keeps as `5 min ago`. `mark`: what the script finds it by (`started`: `data-started`)."""
    if at is None:
        return format_html('<span class="quiet">{}</span>', otherwise)
    mark = f" data-{mark}" if mark else ""
    return format_html('<time datetime="{}" title="{}" data-relative{}>{}</time>', at.iso, at.text, mark, at.text)


@register.simple_tag
def exact_time(at: Moment | None) -> SafeString:
    """A time that stays as it is."""
    if at is None:
        return SafeString()
    return format_html('<time datetime="{}">{}</time>', at.iso, at.text)


@register.simple_tag
def ago(at: Moment) -> SafeString:
    """`5 min ago` beside an exact time: empty until the script fills it."""
    return format_html('<time datetime="{}" data-relative></time>', at.iso)


@register.tag
def tight(parser: Parser, _token: Token) -> Node:
    """Up to `endtight` a line break beside a tag prints nothing, so that lines may be broken where a blank would show;
    elsewhere, as between two attributes, it prints one blank. Settled when the template is read: no page waits for it.
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
    """A row of the board. Of what an open board asks again nearly every row is as it was."""
    return _row(row) if settings.DEBUG else _known_row(_Versioned(row))


@register.simple_tag
def select(name: str, choices: tuple[Choice, ...], every: str) -> SafeString:
    """A filter's list, which has as many entries as the team has tasks. `every`: what the entry for no choice says."""
    return (_select if settings.DEBUG else _known_select)(name, choices, every)


class _Versioned:
    """Two rows of one version are the same row: that is what a version is."""

    __slots__ = ("row",)

    def __init__(self, row: RunRow) -> None:
        self.row = row

    def __hash__(self) -> int:
        return hash(self.row.version)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Versioned) and self.row.version == other.row.version


def _row(row: RunRow) -> SafeString:
    return render_to_string("taskruns/board/_row.html", {"row": row})


def _select(name: str, choices: tuple[Choice, ...], every: str) -> SafeString:
    return render_to_string("taskruns/board/_select.html", {"name": name, "choices": choices, "every": every})


def _sprite() -> SafeString:
    return render_to_string("taskruns/_icon_sprite.html", {"icons": ICONS})


@lru_cache(maxsize=ROWS)
def _known_row(versioned: _Versioned) -> SafeString:
    return _row(versioned.row)


_known_select = lru_cache(maxsize=SELECTS)(_select)
_known_sprite = lru_cache(maxsize=1)(_sprite)
