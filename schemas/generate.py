"""Writes the JSON Schemas (2020-12) of the public contract to `schemas/generated`: `python -m schemas.generate`.

A test holds the files equal to the models, so that a change of the contract is seen in review.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import orjson
from pydantic import BaseModel

import schemas
from schemas.stay import Input, Output

DIRECTORY = Path(__file__).parent / "generated"
_BASE = "https://json-schema.org/draft/2020-12/schema"


def models() -> Iterator[type[BaseModel]]:
    """Every public model of the package `schemas`, by name."""
    found = {
        value.__name__: value
        for module in pkgutil.iter_modules(schemas.__path__)
        for value in vars(import_module(f"schemas.{module.name}")).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__.startswith("schemas.")
    }
    for name in sorted(found):
        if found[name] not in (Input, Output) and name[0] != "_" and name.isidentifier():  # not RootModel[…], a base
            yield found[name]


def files() -> Iterator[tuple[str, bytes]]:
    """The name and the content of every generated schema file."""
    for model in models():
        mode = "serialization" if issubclass(model, Output) else "validation"
        schema = {"$schema": _BASE, **model.model_json_schema(mode=mode)}  # type: ignore[arg-type]  # mypy widens it
        yield f"{model.__name__}.json", orjson.dumps(schema, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n"


def main() -> None:
    """Write the files, and remove those of models that are gone. `openapi.json` is the routes' and stays."""
    DIRECTORY.mkdir(exist_ok=True)
    written = dict(files())
    for old in DIRECTORY.glob("[A-Z]*.json"):
        if old.name not in written:
            old.unlink()
    for name, content in written.items():
        (DIRECTORY / name).write_bytes(content)


if __name__ == "__main__":
    main()
