"""Flower's templates, and one more: our page, with a place in the navigation of all pages."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from tornado.template import Loader, Template

#: Our templates, beside this file.
_OURS: Final = ("llm.html", "llm_numbers.html")

#: The template that draws the navigation, and where its list of pages ends.
_NAVIGATION: Final = "navbar.html"
_END_OF_LIST: Final = "</ul>"

_LINK: Final = """
        <li class="nav-item">
          <a class="nav-link{% if active_tab == 'llm' %} active{% end %}"
            href="{{ reverse_url('llm') }}"
            {% if active_tab == 'llm' %}aria-current="page"{% end %}>LLM</a>
        </li>
      """


class Templates(Loader):
    """Loads Flower's templates from its folder, and ours from here."""

    def _create_template(self, name: str) -> Template:
        source = _source(name, Path(self.root))
        return Template(source, name=name, loader=self)


def _source(name: str, flowers: Path) -> str:
    if name in _OURS:
        return (files(__package__ or "") / name).read_text("utf-8")
    source = (flowers / name).read_text("utf-8")
    return source.replace(_END_OF_LIST, f"{_LINK}{_END_OF_LIST}", 1) if name == _NAVIGATION else source
