"""What an operator enters about the hotel software of a facility."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator

from schemas.directory import Name
from schemas.hotels import HotelSystem
from schemas.stay import Input, refuse

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_PROPERTY = re.compile(r"[\x21-\x7e]{1,64}")


def known_system(value: object) -> object:
    """The system of this name, for pydantic."""
    try:
        return HotelSystem(value)  # type: ignore[arg-type]  # whatever was given: what is no member fails
    except ValueError:
        raise refuse("out_of_range", expected=", ".join(HotelSystem)) from None


class NewHotelSystem(Input):
    """Hotel software of one facility. Nothing but `base_url`, and `token_url` where tokens come from, is ever called.

    `credentials_file` lies on the daemon's host: a JSON object with the members that the system wants
    (`connectors.hotels.client`). Addresses are https; http is for the same host, for trials.
    """

    facility: Name
    system: Annotated[HotelSystem, BeforeValidator(known_system)]
    base_url: Annotated[str, Field(max_length=300)]
    token_url: Annotated[str, Field(max_length=300)] | None = None
    property_id: str | None = None
    credentials_file: Annotated[str, Field(max_length=300)]

    @field_validator("base_url", "token_url")
    @classmethod
    def _url_is_plain(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            plain = bool(parts.hostname) and not (parts.query or parts.fragment or "@" in parts.netloc)
            safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        except ValueError:
            plain = safe = False
        if not (plain and safe):
            raise refuse("wrong_format", expected="https://…")
        return url.rstrip("/")

    @field_validator("property_id")
    @classmethod
    def _property_is_plain(cls, property_id: str | None) -> str | None:
        if property_id is not None and not _PROPERTY.fullmatch(property_id):
            raise refuse("wrong_format", expected="1-64 × A-Z 0-9 …")
        return property_id

    @field_validator("credentials_file")
    @classmethod
    def _file_is_absolute(cls, path: str) -> str:
        if not PurePosixPath(path).is_absolute():
            raise refuse("wrong_format", expected="/…")
        return path
