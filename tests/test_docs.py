"""The texts name only what is there: links, files, settings, commands, routes, tests, names of the code, codes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer.main

from asm_daemon.__main__ import app
from asm_daemon.daemon import POPULATION_CONNECTORS
from asm_daemon.problems import PROBLEMS
from asm_daemon.settings import PREFIX, Settings
from asm_daemon.web.contract import unbound_table
from connectors.__main__ import GROUP as CONNECTORS
from schemas.generate import DIRECTORY
from schemas.violations import CATALOGUE

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("asm_daemon", "connectors", "schemas", "migrations", "deploy", "tests", "docs", ".ci")
OUR_ENDINGS = (".py", ".sql", ".cfg", ".toml", ".lock", ".md", ".html", ".yaml")
FILE_ENDINGS = (*OUR_ENDINGS, ".json", ".key", ".pem", ".pub", ".conf", ".env", ".csv", ".xlsx", ".hl7", ".css", ".js")
ELSEWHERE = {"ASM_POSTGRES_BIN", "ASM_TEST_POSTGRES_BIN"}  # read by the demo and the tests, not by the daemon
OTHER_SERVICE = "docs/population-contract.md"  # its routes are the population database's; tests/population holds them
PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts) and "LICENSE" not in path.name
}


# -- what a text names -------------------------------------------------------------------------------------------------


def code_of(text: str) -> Iterator[str]:
    """Every code span, and every line of the code blocks with continued lines joined."""
    fence = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for block in fence.findall(text):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    rest = fence.sub("", text)
    yield from re.findall(r"(?m)^ {4}(\S.*)$", rest)
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", rest):
        yield " ".join(span.split())


def anchors(text: str) -> set[str]:
    """What a link may have behind its #: the headings, as the hosts of repositories write them."""
    titles = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def dead_links(page: str, text: str) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (ROOT / page).parent / name if name else ROOT / page
        if not found.exists() or (anchor and anchor not in anchors(found.read_text("utf-8"))):
            yield target


@cache
def file_names() -> frozenset[str]:
    return frozenset(path.name for path in ROOT.rglob("*") if ".venv" not in path.parts and ".git" not in path.parts)


def missing_files(text: str) -> Iterator[str]:
    tops = "|".join(map(re.escape, TOPS))
    for name in re.findall(rf"(?<![\w./$-])((?:{tops})/[\w./*-]*)", text):
        path = name.rstrip(".-")
        whole = (ROOT / path).exists() or any(ROOT.glob(path if "*" in path else f"{path}*"))
        if not whole and "NNNN" not in path:
            yield path
    for code in code_of(text):
        if re.fullmatch(r"[\w.-]+", code) and code.endswith(OUR_ENDINGS) and code not in file_names():
            yield code


def unknown_settings(text: str) -> Iterator[str]:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | ELSEWHERE
    for name in re.findall(r"\bASM_[A-Z_]*[A-Z](?!\w)", text):
        if name not in known:
            yield name


def wrong_commands(text: str) -> Iterator[str]:
    for line in code_of(text):
        if "systemctl" in line:
            continue
        for call in re.findall(r"(?:^|[\s/])asm-daemon((?: [^|;&<>#]+)?)", line):
            if not _is_command(call.split()):
                yield f"asm-daemon{call}"
        for target in re.findall(r"(?:^|[;&] *)make ([a-z]+)", line):
            if not re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text()):
                yield f"make {target}"


def _is_command(words: list[str]) -> bool:
    command: Any = typer.main.get_command(app)
    while words and (commands := getattr(command, "commands", None)) and not words[0].startswith("-"):
        if words[0] not in commands:
            return False
        command, words = commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return all(word.partition("=")[0] in options | {"--help"} for word in words if word.startswith("--"))


@cache
def routes() -> Mapping[tuple[str, str], frozenset[str]]:
    """(method, path) → its query parameters: those of the API document, and the pages that it does not list."""
    listed = orjson.loads((DIRECTORY / "openapi.json").read_bytes())["paths"]
    found = {
        (method.upper(), path): frozenset(each["name"] for each in operation["parameters"] if each["in"] == "query")
        for path, operations in listed.items()
        for method, operation in operations.items()
    }
    pages = [route for route in unbound_table() if not route.listed]
    found |= {(route.method, re.sub(r"\{(\w+):.*\}", r"{\1}", route.path)): frozenset() for route in pages}
    return found | {("GET", "/openapi.json"): frozenset(), ("GET", "/static/{name}"): frozenset()}


def wrong_routes(text: str) -> Iterator[str]:
    named = re.compile(r"(?:\b(GET|POST|PUT|PATCH|DELETE) (?:\$BASE)?|^|\$BASE|127\.0\.0\.1:8080)(/[^\s'\"]*)")
    for line in code_of(text):
        method_of_curl = re.search(r"-X (\w+)", line)
        for method, address in named.findall(line):
            wanted = method or (method_of_curl[1] if method_of_curl else "")
            is_ours = method or not line.startswith("/") or address.startswith("/v1/")
            if is_ours and not _is_route(wanted, address):
                yield f"{wanted} {address}".strip()


def _is_route(method: str, address: str) -> bool:
    path, _, query = address.partition("?")
    wanted = {pair.partition("=")[0] for pair in query.split("&") if pair}
    for (known_method, template), parameters in routes().items():
        pattern = "".join(
            "[^/:]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", template)
        )
        if method in ("", known_method) and re.fullmatch(pattern, path) and wanted <= parameters:
            return True
    return False


@cache
def known_tests() -> frozenset[str]:
    texts = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    return frozenset(name for text in texts for name in re.findall(r"\bdef (test_\w+)", text))


def unknown_tests(text: str) -> Iterator[str]:
    for name in re.findall(r"(?<![/\w])test_\w+\b(?!\.py)", text):
        if name not in known_tests():
            yield name


def unknown_names(text: str) -> Iterator[str]:
    """Dotted names of the code, such as `store.stays.lock_turns`, that lead nowhere."""
    for code in code_of(text):
        if re.fullmatch(r"[a-z_0-9]+(?:\.[A-Za-z_0-9]+)+(?:\(\))?", code) and not code.endswith(FILE_ENDINGS):
            first, *others = code.removesuffix("()").split(".")
            top = first if first in TOPS else f"asm_daemon.{first}"
            if code not in (CONNECTORS, POPULATION_CONNECTORS) and _module_exists(top) and not _resolves(top, others):
                yield code


def _module_exists(name: str) -> bool:
    try:
        import_module(name)
    except ModuleNotFoundError:
        return False
    return True


def _resolves(module: str, others: list[str]) -> bool:
    found: Any = import_module(module)
    for index, name in enumerate(others):
        if hasattr(found, name):
            found = getattr(found, name)
        elif _module_exists(f"{module}.{'.'.join(others[: index + 1])}"):
            found = import_module(f"{module}.{'.'.join(others[: index + 1])}")
        else:
            return False
    return True


def wrong_codes(text: str) -> Iterator[str]:
    """Rows of tables `| code | status |` that are not of our problems, and `violation` rows of no violation."""
    for code, status in re.findall(r"(?m)^\| `([a-z_]+)` \| ([1-5]\d\d) \|", text):
        if code not in PROBLEMS or PROBLEMS[code].status != int(status):
            yield f"{code} {status}"
    for code in re.findall(r"violation `([a-z_]+)`", text):
        if code not in CATALOGUE:
            yield code


# -- the checks find what is wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["[a](nothing.md)", "[a](docs/nothing/)", "[a](CONTRIBUTING.md#no-such-heading)"])
def test_a_dead_link_is_found(link: str) -> None:
    assert list(dead_links("README.md", link)) == [link[4:-1]]


@pytest.mark.parametrize("name", ["asm_daemon/nothing.py", "docs/adr/9999", "migrations/9999_no.sql", "deploy/no/"])
def test_a_file_that_is_not_there_is_found(name: str) -> None:
    assert list(missing_files(f"see {name}, or `asm_daemon/intake.py`")) == [name]


def test_a_bare_file_name_that_is_not_there_is_found() -> None:
    assert list(missing_files("`nothing.py` and `intake.py`")) == ["nothing.py"]


def test_a_setting_that_does_not_exist_is_found() -> None:
    assert list(unknown_settings("`ASM_NOTHING=1`, `ASM_LISTEN`, ASM_*")) == ["ASM_NOTHING"]


@pytest.mark.parametrize(
    "call", ["nothing", "audit nothing", "audit verify --nothing", "--nothing", "facility add --x 1"]
)
def test_a_command_or_option_that_does_not_exist_is_found(call: str) -> None:
    assert list(wrong_commands(f"`asm-daemon {call}` but `asm-daemon audit verify --checkpoint FILE`")) == [
        f"asm-daemon {call}"
    ]


def test_a_target_of_make_that_does_not_exist_is_found() -> None:
    assert list(wrong_commands("`make nothing` and `make demo`")) == ["make nothing"]


@pytest.mark.parametrize(
    "route",
    ["GET /v1/nothing", "PATCH /v1/stays", "POST /v1/stays/{stay_id}:nothing", "GET /v1/stays?nothing=1", "/v1/no"],
)
def test_a_route_or_parameter_that_does_not_exist_is_found(route: str) -> None:
    assert list(wrong_routes(f"`{route}`, `PATCH /v1/stays/$STAY`, `GET /check/{{code}}`, `/etc/x`")) == [route]


def test_a_route_in_a_call_is_found() -> None:
    assert list(wrong_routes("```\ncurl -s -X PATCH $BASE/v1/stays \\\n  -d 1\n```")) == ["PATCH /v1/stays"]


def test_a_test_that_does_not_exist_is_found() -> None:
    assert list(unknown_tests("`test_nothing_at_all` in `tests/test_docs.py`")) == ["test_nothing_at_all"]


@pytest.mark.parametrize(
    "name", ["intake.Nothing", "store.stays.nothing", "connectors.nothing.read", "intake.Intake.no()"]
)
def test_a_name_that_the_code_does_not_have_is_found(name: str) -> None:
    assert list(unknown_names(f"`{name}` but `store.stays.lock_turns`, `asm.hungyen.example`")) == [name]


@pytest.mark.parametrize("row", ["| `nothing` | 404 |", "| `not_found` | 400 |"])
def test_a_code_that_does_not_exist_is_found(row: str) -> None:
    assert list(wrong_codes(f"{row} text |\n| `not_found` | 404 | text |\n")) == [
        row.replace("`", "").replace(" |", "")[2:]
    ]


# -- and find nothing in ours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_text_names_only_what_is_there(page: str) -> None:
    text = PAGES[page]
    wrong = [*dead_links(page, text), *missing_files(text), *unknown_settings(text), *wrong_commands(text)]
    wrong += [*unknown_tests(text), *unknown_names(text), *wrong_codes(text)]
    if page != OTHER_SERVICE:
        wrong += wrong_routes(text)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_every_personal_number_in_a_text_is_of_nobody(page: str) -> None:
    assert [number for number in re.findall(r"(?<![\w.-])\d{12}(?![\w.-])", PAGES[page]) if number[:3] != "000"] == []
