"""The rules of templates that a machine can check."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.template import engines

from taskruns.pages.icons import ICONS
from taskruns.pages.values import Moment
from taskruns.templatetags.parts import icon, icon_sprite
from tests.paths import ROOT

TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
TEXTS = {path: path.read_text() for path in TEMPLATES}
LONGEST = 120  # characters of a line


def named(path: Path) -> str:
    return str(path.relative_to(ROOT / "templates"))


def test_no_line_is_too_long_to_read():
    lines = [
        (named(path), number, line) for path in TEMPLATES for number, line in enumerate(TEXTS[path].split("\n"), 1)
    ]
    assert len(lines) > 1_000
    assert max(len(line) for _, _, line in lines) > LONGEST - 10, "the control: lines were measured"
    assert not [f"{name}:{number}" for name, number, line in lines if len(line) > LONGEST]


def test_icons_and_times_are_written_by_their_tags():
    assert not [named(path) for path, text in TEXTS.items() if re.search(r'class="icon"|<use\b', text)]


def test_templates_draw_exactly_the_icons_of_the_sprite():
    chosen = {name for text in TEXTS.values() for name in re.findall(r'{% icon "([\w-]+)"', text)}
    assert len(chosen) > 15
    assert chosen <= set(ICONS)
    drawn = re.findall(r'<symbol id="i-([\w-]+)" viewBox="0 0 16 16"><svg', icon_sprite())
    assert drawn == list(ICONS)


def test_an_icon_that_the_sprite_lacks_is_an_error():
    assert '<use href="#i-key" />' in icon("key")
    with pytest.raises(ValueError, match="no icon"):
        icon("nothing-like-it")


def test_a_fragment_never_extends():
    fragments = [path for path in TEMPLATES if path.name.startswith("_")]
    pages = [path for path in TEMPLATES if path not in fragments and path.name != "base.html"]
    assert len(fragments) > 20
    assert not [named(path) for path in fragments if "{% extends" in TEXTS[path]]
    assert not [named(path) for path in pages if not TEXTS[path].startswith('{% extends "base.html" %}')]


SHEETS = {path.stem: path.read_text() for path in (ROOT / "taskruns/static/taskruns").glob("*.css")}
DRAWN_BY = {"run_row": "taskruns/board/_row.html", "select": "taskruns/board/_select.html"}  # tags that include


def loaded(name: str) -> set[str]:
    """The style sheets that the template itself loads."""
    return {
        sheet for tag in re.findall(r"{% stylesheets ([^%]*)%}", text_of(name)) for sheet in re.findall(r"\w+", tag)
    }


def text_of(name: str) -> str:
    return TEXTS[ROOT / "templates" / name]


def classes_of(name: str) -> set[str]:
    """The classes used by a template and by the templates that it includes."""
    text = text_of(name)
    included = set(re.findall(r'{% include "([^"]+)"', text))
    included |= {DRAWN_BY[tag] for tag in re.findall(r"{% (\w+) ", text) if tag in DRAWN_BY}
    own = {word for value in re.findall(r'class="(.*?)"[ >\n]', text) for word in re.findall(r"[\w-]+", bare(value))}
    return own.union(*(classes_of(other) for other in included))


def bare(value: str) -> str:
    return re.sub(r"{{.*?}}|{%.*?%}", " ", value)


def styled_by() -> dict[str, set[str]]:
    """Class -> the style sheets with a rule for screens that begins with it."""
    found: dict[str, set[str]] = {}
    for sheet, text in SHEETS.items() - {("print", SHEETS["print"])}:
        rules = re.findall(r"([^{}]+){[^{}]*}", re.sub(r"/\*.*?\*/|@media[^{]*{", " ", text, flags=re.DOTALL))
        for selector in ",".join(rules).split(","):
            for word in re.findall(r"\.([a-z][\w-]*)", selector)[:1]:
                found.setdefault(word, set()).add(sheet)
    return found


def test_each_page_loads_the_style_sheets_of_what_it_shows():
    everywhere, styled = loaded("base.html"), styled_by()
    assert everywhere == {"tokens", "base", "parts", "print"}
    assert styled["view-form"] == {"saved_views"}
    of_subjects = {word: sheets for word, sheets in styled.items() if not sheets & everywhere}
    asked = set()
    for path in TEMPLATES:
        if path.name.startswith("_") or path.name == "base.html":
            continue
        needed = {word: of_subjects[word] for word in classes_of(named(path)) & set(of_subjects)}
        has = loaded(named(path))
        assert not [word for word, sheets in needed.items() if not sheets & has], named(path)
        assert not [sheet for sheet in has if not any(sheet in sheets for sheets in needed.values())], named(path)
        asked |= has
    assert asked | everywhere == set(SHEETS), "every sheet is loaded by a page"


def rendered(source: str, **context: Any) -> str:
    return engines["django"].from_string(source).render(context)


def test_tight_leaves_no_space_for_a_line_break_beside_a_tag():
    source = """{% tight %}
      <b class="x"
        title="{{ name }}">
        {{ name }}
        {% if name %}
          <i>one</i>
        {% endif %}
        two&#32;
        <u>three
          four</u>
      </b>
    {% endtight %} {{ name }}"""
    expected = '<b class="x" title="N">N<i>one</i>two&#32;<u>three four</u></b> N'
    assert rendered(source, name="N") == expected


def test_a_time_is_readable_without_a_script():
    at = Moment("2026-11-23T03:00:00.000Z", "2026-11-23 04:00:00 <CET>")
    html = rendered('{% moment at mark="started" %}', at=at)
    assert html == (
        '<time datetime="2026-11-23T03:00:00.000Z" title="2026-11-23 04:00:00 &lt;CET&gt;" data-relative data-started>'
        "2026-11-23 04:00:00 &lt;CET&gt;</time>"
    )
    assert rendered("{% exact_time at %}", at=at).startswith('<time datetime="2026-11-23T03:00:00.000Z">2026-11-23')
    assert rendered("{% ago at %}", at=at) == '<time datetime="2026-11-23T03:00:00.000Z" data-relative></time>'


def test_an_unknown_time_says_so():
    assert rendered("{% moment at %}", at=None) == '<span class="quiet">\N{EN DASH}</span>'
    assert rendered('{% moment at "never" %}', at=None) == '<span class="quiet">never</span>'
    assert rendered("{% exact_time at %}", at=None) == ""
