"""What an operator enters into the directory: facilities (cơ sở lưu trú) and those who hold keys (chủ thể)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from schemas.codes import COMMUNES, PROVINCES, FacilityKind
from schemas.stay import Input, Tidy, refuse

NAME_LIMIT = 200
CAPACITY_LIMIT = 100_000


def _known_kind(value: object) -> object:
    try:
        return FacilityKind(value)  # type: ignore[arg-type]  # whatever was sent: not a str fails like an unknown one
    except ValueError:
        raise refuse("unknown_code", table="facility_kinds") from None


Name = Annotated[str, Tidy, Field(min_length=1, max_length=NAME_LIMIT)]


class NewFacility(Input):
    """A facility to be entered. `province` and `commune` are codes of those tables, the commune lying in the province.

    `authority` is the commune police that receives its declarations (cơ quan tiếp nhận). A sandbox facility is for
    trials: nothing of it reaches the police, the population database or an extract, and it stays one for ever.
    """

    code: Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9-]{1,31}$")]
    name: Name
    kind: Annotated[FacilityKind, BeforeValidator(_known_kind)]
    province: str
    commune: str
    address: Name
    zone: Name | None = Field(default=None, validate_default=True, description="Khu công nghiệp")
    authority: Name
    capacity: Annotated[int, Field(ge=1, le=CAPACITY_LIMIT)]
    sandbox: bool = False

    @field_validator("province")
    @classmethod
    def _province_is_known(cls, province: str) -> str:
        if province not in PROVINCES:
            raise refuse("unknown_code", table="provinces")
        return province

    @field_validator("commune")
    @classmethod
    def _commune_lies_in_the_province(cls, commune: str, info: ValidationInfo) -> str:
        if commune not in COMMUNES or COMMUNES[commune].parent != info.data.get("province", COMMUNES[commune].parent):
            raise refuse("unknown_code", table="communes")
        return commune

    @field_validator("zone")
    @classmethod
    def _zone_housing_names_its_zone(cls, zone: str | None, info: ValidationInfo) -> str | None:
        if zone is None and info.data.get("kind") is FacilityKind.INDUSTRIAL_ZONE_HOUSING:
            raise refuse("required")
        return zone
