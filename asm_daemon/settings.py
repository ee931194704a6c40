"""Everything an operator decides, read once from the environment; the daemon refuses to start on anything wrong.

Each setting `name` is the variable `ASM_NAME`. An empty value counts as absent. `deploy/asm-daemon.env.example` is made
from this module: `python -m asm_daemon.settings > deploy/asm-daemon.env.example`.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import textwrap
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticUndefined

from schemas.codes import FacilityKind

PREFIX = "ASM_"
# Read elsewhere, on purpose: where the demo's and the tests' PostgreSQL comes from is nothing the daemon may depend on.
_NOT_OURS = re.compile(r"ASM_POSTGRES_BIN|ASM_TEST_.*")
_LISTEN = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})")
_DEPLOYMENT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,128}")


class SettingsError(Exception):
    """What is wrong with the environment: every fault at once, by the name of its variable, never by its value."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("the settings are wrong:\n" + "\n".join(f"  {fault}" for fault in faults))
        self.faults = tuple(faults)


class Address(NamedTuple):
    """Where to listen: `host:port`, an IPv6 address in brackets."""

    host: str
    port: int


def _address(text: object) -> object:
    if not isinstance(text, str):
        return text
    matched = _LISTEN.fullmatch(text)
    if matched is None or int(matched["port"]) > 65535:
        raise ValueError("must be host:port, such as 127.0.0.1:8080 or [::1]:8080")
    return Address(matched["v6"] or matched["host"], int(matched["port"]))


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path: the daemon's working directory is nothing to rely on")
    return path


def _readable_file(path: Path) -> Path:
    if not _absolute(path).is_file() or not os.access(path, os.R_OK):
        raise ValueError("must name a file that this user can read")
    return path


def _split_url(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:  # its message quotes the URL
        raise ValueError("is not a URL") from None


def _deployment(text: str) -> str:
    if not _DEPLOYMENT.fullmatch(text):
        raise ValueError("must look like a host name: lower-case letters, digits, dots and hyphens, at most 63")
    return text


def _client_id(text: str) -> str:
    if not _CLIENT_ID.fullmatch(text):
        raise ValueError("must be 1 to 128 printable ASCII characters without a space")
    return text


def _database_url(text: str) -> str:
    parts = _split_url(text)
    if parts.scheme not in {"postgresql", "postgres"} or parts.path in {"", "/"}:
        raise ValueError("must be postgresql://{role}@host/database")
    if text.count("{role}") != 1 or not parts.netloc.startswith(("{role}@", "{role}:")):
        raise ValueError("must carry {role} once, in the place of the user: postgresql://{role}@host/database")
    return text


def _web_url(text: str, info: ValidationInfo) -> str:
    parts = _split_url(text)
    plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
        raise ValueError("must be an http or https URL without user, query or fragment")
    if parts.scheme == "http" and info.data.get("environment") == "production":
        raise ValueError("must be https in production")
    return text.rstrip("/")


def _networks(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        return tuple(ip_network(each.strip()) for each in text.split(","))
    except ValueError:
        raise ValueError("must be networks such as 10.20.0.0/16, with commas between") from None


_Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_networks)]


_STAY_DAYS = range(366, 3661)


def _days_by_kind(text: object) -> object:
    if not isinstance(text, str):
        return text
    found: dict[str, int] = {}
    faults = []
    for place, each in enumerate(text.split(","), 1):
        kind, _, days = (part.strip() for part in each.partition("="))
        if kind not in set(FacilityKind):
            faults.append(f"entry {place} names no kind of facility")
        elif kind in found:
            faults.append(f"entry {place} names a kind again")
        found[kind] = int(days) if re.fullmatch("[0-9]{1,4}", days) else 0
        if found[kind] not in _STAY_DAYS:
            faults.append(f"entry {place} needs {_STAY_DAYS[0]} to {_STAY_DAYS[-1]} days")
    if faults:
        raise ValueError(f"must be kind=days with commas between; {', '.join(faults)}")
    return found


def _vault_url(text: str) -> str:
    parts = _split_url(text)
    plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
        raise ValueError("must be an http or https URL without user, query or fragment")
    if parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError("must be https, except on this host: the keys travel in it")
    return text.rstrip("/")


def _key_name(text: str) -> str:
    if not _KEY_NAME.fullmatch(text):
        raise ValueError("must be 1 to 64 letters, digits, dots, hyphens or underscores")
    return text


_Listen = Annotated[Address, BeforeValidator(_address)]
_AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
_File = Annotated[Path, AfterValidator(_readable_file)]
_WebUrl = Annotated[str, AfterValidator(_web_url)]
_DaysByKind = Annotated[dict[FacilityKind, int], BeforeValidator(_days_by_kind)]


class Settings(BaseModel):
    """The decisions of one deployment; immutable, safe to print (what may hold a secret is left out of `repr`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    environment: Literal["trial", "production"] = Field(
        description="`trial` marks every receipt and page as without legal value and signs with the trial key; "
        "`production` demands https. Receipts of one are never valid in the other."
    )
    deployment: Annotated[str, AfterValidator(_deployment)] = Field(
        description="The name of this installation: the origin line of the audit log's checkpoints and the issuer of "
        "receipts. Changing it starts a new log for every witness.",
    )
    database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        repr=False,
        description="PostgreSQL, with {role} where the login belongs; the daemon opens one pool per audience. Keep "
        "passwords out of it: add ?passfile=/path or use client certificates.",
    )
    key_store: _AbsolutePath = Field(
        description="The directory of the key store (0700, the daemon's alone). Without it nothing sealed can be "
        "read again: back it up apart from the database, never beside it."
    )
    key_pkcs11_module: _File | None = Field(
        default=None, description="The PKCS #11 module (a shared library) of the token, with key_provider pkcs11."
    )
    key_pkcs11_token: Annotated[str, AfterValidator(_key_name)] | None = Field(
        default=None, description="The label of the token. Without the token the daemon does not start."
    )
    key_pkcs11_pin_file: _File | None = Field(
        default=None,
        description="The file (0600, the daemon's own) with the user PIN of the token, on one line. Read at each use; "
        "most tokens lock when a wrong one is tried too often.",
    )
    key_vault_url: Annotated[str, AfterValidator(_vault_url)] | None = Field(
        default=None,
        description="The base URL of the vault, https unless on this host, with key_provider vault. The daemon asks it "
        "at start and when the key store changes, never for a record; while it does not answer, no daemon starts.",
    )
    key_vault_mount: Annotated[str, AfterValidator(_key_name)] = Field(
        default="transit", description="Where the transit engine is mounted."
    )
    key_vault_key: Annotated[str, AfterValidator(_key_name)] = Field(
        default="asm-root", description="The name of the root key there, of type aes256-gcm96."
    )
    key_vault_token_file: _File | None = Field(
        default=None,
        description="The file (0600, the daemon's own) with the vault's token, on one line. Read at each use, so that "
        "an agent may renew it.",
    )
    key_vault_ca_file: _File | None = Field(
        default=None, description="The authority (PEM) of the vault's certificate. Absent: those of the system."
    )
    key_vault_timeout_seconds: int = Field(
        default=5,
        ge=1,
        le=60,
        description="Seconds to wait for the vault, to connect and for each read. One that hangs when the key store "
        "changes holds everything up for that long.",
    )
    key_provider: Literal["file", "pkcs11", "vault"] = Field(
        default="file",
        description="Where the root key is, which wraps all others: `file` keeps it in the key store too, for one "
        "host; `pkcs11` in a token, `vault` in the transit engine of OpenBao or HashiCorp Vault, so that a stolen key "
        "store opens nothing. It is chosen when the store is made (asm-daemon keys init); with another one the daemon "
        "does not start.",
    )
    key_backups: _AbsolutePath | None = Field(
        default=None,
        description="The folder of the key store's backups (0700): made there by asm-daemon keys backup, removed by "
        "the daemon when they are too old. Absent: no certificate of destruction says that it was looked at them.",
    )
    key_backup_days: int = Field(
        default=35,
        ge=1,
        le=62,
        description="Days after which a backup of the key store is removed, wherever it lies. What was forgotten can "
        "be read with an older one: a certificate of destruction is not final before.",
    )
    database_backup_days: int = Field(
        default=35,
        ge=1,
        le=35,
        description="Days after which no backup of the database and no archived WAL exists any more. An erased stay is "
        "in them until then; keeping them for longer makes the certificates wrong.",
    )
    stay_retention_days: int = Field(
        default=1096,
        ge=_STAY_DAYS[0],
        le=_STAY_DAYS[-1],
        description="Days that a stay is kept after its end; months are forgotten whole, so it may be 31 days more. "
        "Shorter makes searches of the police miss what their purpose would allow; each answer tells. It cannot be "
        "taken back.",
    )
    stay_retention_days_by_kind: _DaysByKind | None = Field(
        default=None,
        description="Kinds of facility whose stays are kept for another time, as kind=days with commas between. The "
        "kind counts that a facility has in the directory when its month is gone through. Whoever left after their "
        "month waits for up to 91 days more while another kind is still kept. Absent: one period for all.",
    )
    withheld_days: int = Field(
        default=92,
        ge=31,
        le=366,
        description="Days after the publication of an extract for which is kept, sealed, what it did not tell. Later "
        "releases of that day and its neighbours are checked against it: after that they can no longer be corrected.",
    )
    operator_record_days: int = Field(
        default=366,
        ge=31,
        le=3660,
        description="Days that closed alerts of operators and finished comparisons with the population database are "
        "kept. They hold ids and counts.",
    )
    listen: _Listen = Field(
        default=Address("127.0.0.1", 8080), description="host:port of the HTTP server. Put a TLS terminator in front."
    )
    public_url: _WebUrl = Field(
        description="How people and machines outside reach the HTTP server; it is printed on receipts and cannot be "
        "changed on those already given."
    )
    mllp_listen: _Listen | None = Field(
        default=None,
        description="host:port for HL7 over MLLP from hospitals. MLLP has no encryption of its own: set "
        "mllp_tls_certificate_file, or bind it to a private network or a TLS tunnel. Absent: no listener.",
    )
    mllp_tls_certificate_file: _File | None = Field(
        default=None,
        description="The certificate chain (PEM) of the HL7 listener: with it the listener speaks only TLS and demands "
        "a client certificate. Read at start.",
    )
    mllp_tls_key_file: _File | None = Field(
        default=None, description="The private key (PEM) of that certificate, without a password."
    )
    mllp_tls_client_ca_file: _File | None = Field(
        default=None,
        description="The certificates (PEM) of the authorities whose client certificates HL7 senders may show. Whoever "
        "holds one may use the names of any sender that is not bound to a certificate of its own.",
        validate_default=True,
    )
    mllp_idle_seconds: int = Field(
        default=300,
        ge=5,
        le=86_400,
        description="Seconds that an HL7 connection may be silent, or a message take to arrive, before it is closed. "
        "Senders connect again by themselves; longer keeps dead connections, of which 200 are the limit.",
    )
    hl7_message_days: int = Field(
        default=30,
        ge=1,
        le=366,
        description="Days that is remembered what was answered to an HL7 message, so that it is answered alike when it "
        "comes again, and that refused ones stay in the list. No content is kept either way.",
    )
    population_url: _WebUrl = Field(
        description="The base URL of the population database (Cơ sở dữ liệu quốc gia về dân cư). While it cannot be "
        "reached, declarations are still accepted and wait."
    )
    population_client_id: Annotated[str, AfterValidator(_client_id)] = Field(
        description="Our name as an OAuth2 client of the population database."
    )
    population_client_secret_file: _File = Field(
        description="The file with the secret that belongs to it, on one line. Read at start."
    )
    population_connector: str = Field(
        default="http",
        pattern=r"^[a-z][a-z0-9_]{0,39}$",
        description="How it is spoken to. `http`: as docs/population-contract.md says. A package for a service that "
        "speaks otherwise registers its own name, as an entry point of the group asm_daemon.population.",
    )
    compare_hours: int = Field(
        default=24,
        ge=0,
        le=8760,
        description="Hours from the beginning of one comparison with the population database to that of the next. "
        "Shorter finds sooner what it has lost, and reads all stays as often. 0: never, for a service that cannot tell "
        "digests; what it loses after confirming it then stays lost.",
    )
    max_body_bytes: int = Field(
        default=8 << 20,
        ge=64 << 10,
        le=64 << 20,
        description="Bytes of the largest request body or file; a larger one is refused with 413. Memory use grows "
        "with it times the number of simultaneous requests.",
    )
    max_batch_rows: int = Field(
        default=5000, ge=1, le=50_000, description="Rows of the largest batch; a larger one is refused, never cut."
    )
    flush_rows: int = Field(
        default=500,
        ge=1,
        le=1000,
        description="Rows that one commit of single declarations takes at most. More raises throughput under load and "
        "the time that the last row of a commit waits.",
    )
    intake_queue_rows: int = Field(
        default=4000,
        ge=1,
        le=100_000,
        description="Single declarations that may wait for a commit; beyond it the answer is 503 with Retry-After. At "
        "least flush_rows.",
    )
    import_file_hours: int = Field(
        default=24,
        ge=1,
        le=720,
        description="Hours that an uploaded file is kept, sealed, unless its owner fetches it with its errors before. "
        "Longer keeps personal data longer than anybody needs them.",
    )
    import_report_days: int = Field(
        default=30,
        ge=1,
        le=730,
        description="Days that the report of an uploaded file is kept. It holds rows, codes and receipts, and nothing "
        "about a guest.",
    )
    inbox: _AbsolutePath | None = Field(
        default=None,
        description="A directory with a folder for each facility, named by its code: files put there are read, taken "
        "in and deleted, and a report is left in its folder reports. Until then they lie there unsealed: have it on an "
        "encrypted disk. Absent: no inbox.",
    )
    lease_seconds: int = Field(
        default=15,
        ge=3,
        le=300,
        description="Seconds after which the work of a silent process is taken over by another. Shorter recovers "
        "faster, and takes work from a process that only paused.",
    )
    shutdown_seconds: int = Field(
        default=25,
        ge=1,
        le=300,
        description="Seconds to finish accepted work after SIGTERM. Keep it below the supervisor's own limit "
        "(systemd 90, Kubernetes 30), or that kills in the middle.",
    )
    key_cache_seconds: int = Field(
        default=30,
        ge=0,
        le=300,
        description="Seconds that a revoked API key or grant may still work. 0 asks the database at every request.",
    )
    expected_kept_days: int = Field(
        default=3,
        ge=0,
        le=31,
        description="Days after which an expected guest who did not come, or whose booking was cancelled, is erased. "
        "Longer helps a desk whose guests come late, and keeps data of people who never came.",
    )
    deadline_notice_minutes: int = Field(
        default=60,
        ge=5,
        le=720,
        description="Minutes before the deadline that an owner is told of a guest in house who is not declared yet. "
        "Longer tells of guests who would be declared in time anyway.",
    )
    events_kept_days: int = Field(
        default=30,
        ge=4,
        le=366,
        description="Days that what owners are told can be pulled. Who comes back later has to look through the lists.",
    )
    webhook_failing_hours: int = Field(
        default=72,
        ge=1,
        le=720,
        description="Hours that an owner's webhook may fail without a success before nothing is sent to it any more "
        "and the operator is alerted. Its owner can still pull the events.",
    )
    webhook_networks: _Networks | None = Field(
        default=None,
        description="Networks (CIDR, with commas between) that webhooks may be sent to although they are not public, "
        "in a trial with http too. Whoever holds an owner's key can then make the daemon post to every host in them. "
        "Absent: public addresses only, and https.",
    )
    roster_absence_nights: int = Field(
        default=3,
        ge=0,
        le=60,
        description="Nights that a guest may be missing from a roster before the next one checks them out. 0 checks "
        "out at once; more keeps people in house who are gone.",
    )
    roster_plan_hours: int = Field(
        default=24,
        ge=1,
        le=168,
        description="Hours for which the plan of a roster can be looked at and applied. Its sealed content is erased "
        "within an hour after that.",
    )
    verification_answers_percent: int = Field(
        default=150,
        ge=10,
        le=1000,
        description="Of how many guests a facility is told each day whether to check the document again, in percent of "
        "its capacity, and at least 10. More lets a key ask the population database about more strangers; less leaves "
        "typing errors untold where many guests come in one day.",
    )
    auditor_public_key_file: _File | None = Field(
        default=None,
        description="The public key of the auditor, to whom the terms of police searches are sealed. Absent: in "
        "a trial the terms are not recorded, and in production the police cannot search.",
    )
    witness_key_file: _File | None = Field(
        default=None,
        description="The verifier key of the witness, as `asm-daemon witness init` printed it. With it the audit has "
        "to be confirmed from outside, or data stops leaving. Absent: nothing stops, and nobody notices a rewritten "
        "audit unless checkpoints are kept by hand.",
    )
    witness_release_hours: int = Field(
        default=1,
        ge=1,
        le=720,
        description="Hours that the witness may be silent until departments get no releases any more and the operator "
        "is alerted.",
    )
    witness_read_hours: int = Field(
        default=24,
        ge=1,
        le=720,
        description="Hours that the witness may be silent until the police cannot read any more; at least "
        "witness_release_hours. Declarations never stop for it.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level that is logged. No level logs personal data."
    )

    @field_validator("mllp_tls_client_ca_file")
    @classmethod
    def _tls_is_whole(cls, client_ca: Path | None, info: ValidationInfo) -> Path | None:
        given = [info.data.get("mllp_tls_certificate_file"), info.data.get("mllp_tls_key_file"), client_ca]
        if any(given) and not all(given):
            raise ValueError("TLS needs mllp_tls_certificate_file, mllp_tls_key_file and mllp_tls_client_ca_file")
        return client_ca

    @field_validator("key_provider")
    @classmethod
    def _provider_is_whole(cls, provider: str, info: ValidationInfo) -> str:
        needed = {
            "pkcs11": ("key_pkcs11_module", "key_pkcs11_token", "key_pkcs11_pin_file"),
            "vault": ("key_vault_url", "key_vault_token_file"),
        }.get(provider, ())
        if any(name in info.data and info.data[name] is None for name in needed):
            raise ValueError(f"{provider} needs {' and '.join(f'ASM_{name.upper()}' for name in needed)}")
        return provider

    @field_validator("witness_read_hours")
    @classmethod
    def _releases_stop_first(cls, hours: int, info: ValidationInfo) -> int:
        if hours < info.data.get("witness_release_hours", 1):
            raise ValueError("must be at least witness_release_hours")
        return hours

    @field_validator("intake_queue_rows")
    @classmethod
    def _holds_one_flush(cls, rows: int, info: ValidationInfo) -> int:
        if rows < info.data.get("flush_rows", 1):
            raise ValueError("must be at least flush_rows")
        return rows


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings from `ASM_*` variables (`os.environ`). SettingsError lists everything that is wrong."""
    given = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value.strip()}
    known = {_variable(field): field for field in Settings.model_fields}
    faults = [_unknown(name, list(known)) for name in given if name not in known and not _NOT_OURS.fullmatch(name)]
    try:
        settings = Settings.model_validate({known[name]: value for name, value in given.items() if name in known})
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            name = _variable(str(fault["loc"][0]))
            faults.append(f"{name} is missing" if fault["type"] == "missing" else f"{name}: {_reason(fault['msg'])}")
    if faults:
        raise SettingsError(sorted(faults)) from None
    return settings


def example() -> str:
    """The text of `deploy/asm-daemon.env.example`: every setting with its meaning, defaults commented out."""
    parts = [_EXAMPLE_HEAD]
    for name, field in Settings.model_fields.items():
        meaning = textwrap.fill(field.description or "", 100, initial_indent="# ", subsequent_indent="# ")
        if field.default is PydanticUndefined:
            line = f"{_variable(name)}={_EXAMPLES[name]}"
        elif field.default is None:
            line = f"#{_variable(name)}={_EXAMPLES[name]}"
        else:
            default = field.default
            line = f"#{_variable(name)}={':'.join(map(str, default)) if isinstance(default, Address) else default}"
        parts.append(f"{meaning}\n{line}\n")
    return "\n".join(parts)


_EXAMPLE_HEAD = """\
# The settings of the ASM daemon, for systemd's EnvironmentFile= or a container's env_file.
# A line that begins with #ASM_ shows a default or an optional setting. The daemon refuses to start on an unknown ASM_
# variable; on Kubernetes set enableServiceLinks: false, or a Service named asm adds some.
"""
_EXAMPLES = {
    "environment": "trial",
    "deployment": "asm.hungyen.example",
    "database_url": "postgresql://{role}@db.internal/asm?passfile=/etc/asm-daemon/pgpass&sslmode=verify-full",
    "key_store": "/var/lib/asm-daemon/keys",
    "key_pkcs11_module": "/usr/lib/softhsm/libsofthsm2.so",
    "key_pkcs11_token": "asm",
    "key_pkcs11_pin_file": "/etc/asm-daemon/token-pin",
    "key_vault_url": "https://vault.internal:8200",
    "key_vault_token_file": "/etc/asm-daemon/vault-token",
    "key_vault_ca_file": "/etc/asm-daemon/vault-ca.pem",
    "key_backups": "/srv/asm-key-backups",
    "public_url": "https://asm.hungyen.example",
    "inbox": "/srv/asm-inbox",
    "mllp_listen": "10.0.0.5:2575",
    "mllp_tls_certificate_file": "/etc/asm-daemon/mllp.pem",
    "mllp_tls_key_file": "/etc/asm-daemon/mllp.key",
    "mllp_tls_client_ca_file": "/etc/asm-daemon/hospitals-ca.pem",
    "webhook_networks": "10.20.0.0/16",
    "stay_retention_days_by_kind": "hotel_4_star=732,medical_facility=366",
    "population_url": "https://population.example",
    "population_client_id": "asm-hungyen",
    "population_client_secret_file": "/etc/asm-daemon/population-secret",
    "auditor_public_key_file": "/etc/asm-daemon/auditor.pub",
    "witness_key_file": "/etc/asm-daemon/witness.vkey",
}


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name} is not a setting" + (f"; is {near[0]} meant?" if near else "")


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


if __name__ == "__main__":
    sys.stdout.write(example())
