"""The lock holds what setup.cfg asks for, and nothing of the machine that made it."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PINNED = {canonicalize_name(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", LOCK)}


def wanted() -> list[Requirement]:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    requirements = [Requirement(line) for text in lists for line in text.split("\n") if line]
    return [requirement for requirement in requirements if requirement.name != "asm-daemon"]


def test_every_dependency_is_pinned_to_a_version_that_setup_cfg_allows() -> None:
    pins = {str(requirement): PINNED.get(canonicalize_name(requirement.name)) for requirement in wanted()}
    wrong = [text for text, pin in pins.items() if pin is None or not Requirement(text).specifier.contains(pin)]
    assert wrong == [], "make lock"


def test_every_pin_has_a_hash() -> None:
    for entry in re.split(r"(?m)^(?=\w)", LOCK)[1:]:
        assert "--hash=sha256:" in entry, entry.split(" ", 1)[0]


def test_the_lock_names_no_index_and_no_folder_of_a_machine() -> None:
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links|--trusted-host", LOCK)
