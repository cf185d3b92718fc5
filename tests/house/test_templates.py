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
    assert max(len(line) for _, _, line in lines) > LONGEST - 10, "lines are measured"
    assert not [f"{name}:{number}" for name, number, line in lines if len(line) > LONGEST]


def test_icons_and_times_are_written_by_their_tags():
    assert not [named(path) for path, text in TEXTS.items() if re.search(r'class="icon"|<use\b', text)]


def test_each_icon_of_a_template_is_in_the_sprite_and_each_of_the_sprite_is_drawn():
    chosen = {name for text in TEXTS.values() for name in re.findall(r'{% icon "([\w-]+)"', text)}
    assert len(chosen) > 15
    assert chosen <= set(ICONS)
    drawn = re.findall(r'<symbol id="i-([\w-]+)" viewBox="0 0 16 16"><svg', icon_sprite())
    assert drawn == list(ICONS)


def test_an_icon_that_the_sprite_lacks_is_a_mistake():
    assert '<use href="#i-key" />' in icon("key")
    with pytest.raises(ValueError, match="no icon"):
        icon("nothing-like-it")


def test_a_fragment_never_extends():
    fragments = [path for path in TEMPLATES if path.name.startswith("_")]
    pages = [path for path in TEMPLATES if path not in fragments and path.name != "base.html"]
    assert len(fragments) > 20
    assert not [named(path) for path in fragments if "{% extends" in TEXTS[path]]
    assert not [named(path) for path in pages if not TEXTS[path].startswith('{% extends "base.html" %}')]


def rendered(source: str, **context: Any) -> str:
    return engines["django"].from_string(source).render(context)


def test_tight_prints_no_blank_for_a_line_break_beside_a_tag():
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


def test_a_time_is_written_out_for_who_has_no_script():
    at = Moment("2026-11-23T03:00:00.000Z", "2026-11-23 04:00:00 <CET>")
    html = rendered('{% moment at mark="started" %}', at=at)
    assert html == (
        '<time datetime="2026-11-23T03:00:00.000Z" title="2026-11-23 04:00:00 &lt;CET&gt;" data-relative data-started>'
        "2026-11-23 04:00:00 &lt;CET&gt;</time>"
    )
    assert rendered("{% exact_time at %}", at=at).startswith('<time datetime="2026-11-23T03:00:00.000Z">2026-11-23')
    assert rendered("{% ago at %}", at=at) == '<time datetime="2026-11-23T03:00:00.000Z" data-relative></time>'


def test_a_time_that_is_not_known_says_so():
    assert rendered("{% moment at %}", at=None) == '<span class="quiet">\N{EN DASH}</span>'
    assert rendered('{% moment at "never" %}', at=None) == '<span class="quiet">never</span>'
    assert rendered("{% exact_time at %}", at=None) == ""
