"""What the browser loads is what was vendored, and nothing comes from another host."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import asm_daemon.web

WEB = Path(asm_daemon.web.__file__).parent
STATIC = WEB / "static"
OWN = {"README.md", "asm.css", "swagger-ui/init.js"}
VENDORED = dict(
    re.findall(r"^\| `([^`]+)` \| [^|]+ \| `([0-9a-f]{64})` \|$", (STATIC / "README.md").read_text(), re.MULTILINE)
)


def test_every_file_is_either_vendored_with_its_hash_or_our_own() -> None:
    present = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert present - OWN == set(VENDORED)


@pytest.mark.parametrize("name", sorted(VENDORED))
def test_a_vendored_file_has_the_hash_written_down(name: str) -> None:
    assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == VENDORED[name]


@pytest.mark.parametrize("name", sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*.css")))
def test_a_style_sheet_loads_nothing_but_data_urls(name: str) -> None:
    style = (STATIC / name).read_text(encoding="utf-8")
    assert "@import" not in style
    assert not [
        target for target in re.findall(r"url\(\s*[\"']?([^\"')]{0,40})", style) if not target.startswith("data:")
    ]


def test_swagger_ui_never_asks_the_public_validator() -> None:
    script = (STATIC / "swagger-ui/init.js").read_text(encoding="utf-8")
    assert "validatorUrl: null" in script
    assert "//" not in re.sub(r"^\s*//.*$", "", script, flags=re.MULTILINE)  # no URL outside comments


def test_pages_load_only_from_their_own_host_and_hold_no_inline_code() -> None:
    loading = r"<(?:script|link|img|iframe|source|video|audio|embed|object|form)\b[^>]*?(?:src|href|data|action)="
    forbidden = (
        loading + r"[\"']?(?:[a-z]+:)?//",
        r"<style\b|\sstyle=|\son[a-z]+=|javascript:",
        r"<script\b(?![^>]*\bsrc=)",
    )
    for template in (WEB / "templates").rglob("*.*"):
        page = template.read_text(encoding="utf-8")
        for pattern in forbidden:
            assert not re.search(pattern, page, re.IGNORECASE), template.name
