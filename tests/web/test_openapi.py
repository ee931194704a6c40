"""The API document says what the table does: structure, references, examples, and the file that is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema_rs
import orjson

from asm_daemon.problems import PROBLEMS
from asm_daemon.web import examples
from asm_daemon.web.contract import unbound_table
from asm_daemon.web.openapi import document
from asm_daemon.web.route import is_portal
from schemas.codes import FacilityKind
from schemas.generate import DIRECTORY
from schemas.identity import ScannedDocument
from schemas.long_stays import StayTemporaryResidence, TemporaryResidence
from schemas.police import DocumentSearch
from schemas.roster import RosterConfirmation
from schemas.stay import Cancellation, CheckOut, DeclarationContext, Extension, StayDeclaration
from tests.stack import declaration
from tests.web.conftest import Web

DOCUMENT: dict[str, Any] = orjson.loads(document(unbound_table()))
SCHEMA = {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def nodes(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


async def test_the_document_that_is_served_is_the_one_that_is_kept(asm: Web) -> None:
    served = (await asm.ask("GET", "/openapi.json")).body + b"\n"
    assert served == (DIRECTORY / "openapi.json").read_bytes(), "run: make schemas"


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    references = {node["$ref"] for node in nodes(DOCUMENT) if isinstance(node, dict) and "$ref" in node}
    assert all(resolve(reference) for reference in references)
    unused = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]} - references
    assert unused == set()


def test_every_schema_is_a_json_schema_of_2020_12() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid({**SCHEMA, **schema}), name


def test_every_operation_is_named_described_and_complete() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    for path, method, operation in operations():
        assert " · " in operation["summary"], path
        declared = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]
        assert declared == [part.partition("}")[0] for part in path.split("{")[1:]]
        assert ("requestBody" in operation) == (method in ("post", "patch"))
        assert any(status.startswith("2") for status in operation["responses"])
        if is_portal(path):
            assert form_of(operation["responses"]["400"]) == "#/components/schemas/PortalRefused"
        else:
            assert operation["responses"]["500"] == {"$ref": "#/components/responses/internal"}
        for scheme in operation["security"]:
            assert "401" in operation["responses"]
            assert set(scheme) <= set(DOCUMENT["components"]["securitySchemes"])


def form_of(response: dict[str, Any]) -> str:
    """The schema of a JSON response."""
    reference: str = response["content"]["application/json"]["schema"]["$ref"]
    return reference


def test_the_portals_routes_promise_the_portals_form_for_every_answer() -> None:
    portal = [operation for path, _, operation in operations() if is_portal(path)]
    assert len(portal) == 13
    for operation in portal:
        assert operation["tags"] == ["portal"]
        forms = {form_of(response) for status, response in operation["responses"].items() if status != "200"}
        assert forms == {"#/components/schemas/PortalRefused"}


def test_every_problem_has_a_response_with_a_fitting_example() -> None:
    whole = {**SCHEMA, "components": DOCUMENT["components"], "$ref": "#/components/schemas/Problem"}
    validator = jsonschema_rs.validator_for(whole)
    for code in PROBLEMS:
        content = DOCUMENT["components"]["responses"][code]["content"]["application/problem+json"]
        assert validator.is_valid(content["example"])


def test_every_example_of_a_request_fits_its_schema() -> None:
    for path, _, operation in operations():
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            if "example" in content:
                schema = {**SCHEMA, "components": DOCUMENT["components"], **content["schema"]}
                assert jsonschema_rs.validator_for(schema).is_valid(content["example"]), (path, media)


def test_the_examples_are_taken_by_the_models_themselves() -> None:
    context = DeclarationContext(FacilityKind.HOTEL_4_STAR, datetime(2026, 11, 23, 8, tzinfo=UTC))
    for model, example in (
        (StayDeclaration, examples.DECLARATION),
        (CheckOut, examples.CHECK_OUT),
        (Extension, examples.EXTENSION),
        (Cancellation, examples.CANCELLATION),
        (DocumentSearch, examples.SEARCH),
        (ScannedDocument, examples.SCAN),
        (RosterConfirmation, examples.ROSTER_CONFIRMATION),
        (TemporaryResidence, examples.TEMPORARY_RESIDENCE),
        (StayTemporaryResidence, examples.STAY_TEMPORARY_RESIDENCE),
    ):
        model.model_validate_json(orjson.dumps(example), context=context)


def fits(path: str, method: str, status: int, body: Any) -> bool:
    """Whether a JSON answer is what the document promises."""
    operation = DOCUMENT["paths"][path][method]["responses"][str(status)]
    if "$ref" in operation:
        operation = resolve(operation["$ref"])
    (content,) = (value for media, value in operation["content"].items() if media.endswith("json"))
    schema = {**SCHEMA, "components": DOCUMENT["components"], **content["schema"]}
    return bool(jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(body))


async def test_an_answer_fits_the_schema_that_is_promised_for_it(asm: Web, owner_key: str) -> None:
    stay = await asm.ask("POST", "/v1/stays", owner_key, json=declaration(1, source_ref="A-1"))
    one = stay.headers["Location"]
    assert fits("/v1/stays", "post", 201, stay.json)
    mixed = await asm.ask("POST", "/v1/stays:batch", owner_key, json=[declaration(2), {}])
    assert fits("/v1/stays:batch", "post", 207, mixed.json)
    refused = await asm.ask("POST", "/v1/stays:batch", owner_key, json=[{}])
    assert fits("/v1/stays:batch", "post", 422, refused.json)
    for path, asked in (
        ("/v1/stays", "/v1/stays"),
        ("/v1/stays/{stay_id}", f"{one}?view=full"),
        ("/v1/stays/{stay_id}/receipt", f"{one}/receipt"),
        ("/v1/facilities", "/v1/facilities"),
        ("/v1/limits", "/v1/limits"),
        ("/v1/codes", "/v1/codes"),
        ("/v1/codes/{table}", "/v1/codes/reasons"),
        ("/v1/problems", "/v1/problems"),
        ("/v1/sandbox", "/v1/sandbox"),
        ("/healthz", "/healthz"),
        ("/readyz", "/readyz"),
    ):
        answer = await asm.ask("GET", asked, owner_key)
        assert fits(path, "get", 200, answer.json), path


async def test_an_answer_in_the_portals_form_fits_its_schema_too(asm: Web, owner_key: str) -> None:
    oauth, tables, filed = "/authorization-service/oauth", "/cms-backend/public", "/client-service/kbtt-vn/kbtt-3th"
    _, key_id, secret = owner_key.split("_")
    fields = {"username": key_id, "password": secret, "grant-type": "api_cslt"}
    opened = await asm.ask("POST", f"{oauth}/token", data=fields)
    assert fits(f"{oauth}/token", "post", 200, opened.json)
    wrong = await asm.ask("POST", f"{oauth}/token", data={**fields, "password": "x"})
    assert fits(f"{oauth}/token", "post", 401, wrong.json)
    token = opened.json["data"]["AccessToken"]
    now = datetime.now(UTC) + timedelta(hours=7)
    times = {"ngayDenCsltStr": f"{now:%Y-%m-%d}", "ngayDiDuKienStr": f"{now + timedelta(days=2):%Y-%m-%d}"}
    citizen = {**examples.PORTAL_CITIZEN, **times}
    for rows, status in (([citizen], 200), ([citizen, {}], 400), ([], 400)):
        answer = await asm.ask("POST", filed, token, json=rows)
        assert answer.status == status
        assert fits(filed, "post", status, answer.json)
    for name in ("dm-qt/3th/get-all", "dm-tinh-tp/get-all", "dm-phuong-xa", "ly-do-cu-tru/get-all"):
        answer = await asm.ask("GET", f"{tables}/{name}?trucThuocTinh=109")
        assert fits(f"{tables}/{name}", "get", 200, answer.json), name
    closed = await asm.ask("DELETE", f"{oauth}/revoke", token)
    assert fits(f"{oauth}/revoke", "delete", 200, closed.json)
