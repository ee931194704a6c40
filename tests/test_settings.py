"""The daemon starts on right settings only, and says everything that is wrong at once, without the values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from asm_daemon.daemon import periods_of
from asm_daemon.settings import Address, Settings, SettingsError, example, load_settings
from schemas.codes import FacilityKind

SECRET = "tra-cuu-bi-mat"
EXAMPLE = Path(__file__).resolve().parents[1] / "deploy" / "asm-daemon.env.example"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The least that the daemon starts with."""
    secret_file = tmp_path / "population-secret"
    secret_file.write_text(SECRET)
    return {
        "ASM_ENVIRONMENT": "trial",
        "ASM_DEPLOYMENT": "asm.hungyen.example",
        "ASM_DATABASE_URL": f"postgresql://{{role}}:{SECRET}@/asm?host=/run/postgresql",
        "ASM_KEY_STORE": "/var/lib/asm-daemon/keys",
        "ASM_PUBLIC_URL": "http://127.0.0.1:8080/",
        "ASM_POPULATION_URL": "http://127.0.0.1:8090",
        "ASM_POPULATION_CLIENT_ID": "asm-hungyen",
        "ASM_POPULATION_CLIENT_SECRET_FILE": str(secret_file),
    }


def faults(environment: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment)
    assert SECRET not in str(caught.value)
    return caught.value.faults


def test_every_fault_is_told_at_once(environment: dict[str, str]) -> None:
    del environment["ASM_KEY_STORE"]
    wrong = environment | {"ASM_ENVIRONMENT": "test", "ASM_LEASE_SECONDS": "soon", "ASM_FLUSH_ROW": "10"}
    assert faults(wrong) == (
        "ASM_ENVIRONMENT: must be 'trial' or 'production'",
        "ASM_FLUSH_ROW is not a setting; is ASM_FLUSH_ROWS meant?",
        "ASM_KEY_STORE is missing",
        "ASM_LEASE_SECONDS: must be a valid integer, unable to parse string as an integer",
    )


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
@pytest.mark.parametrize("value", [f"{SECRET} ñ", f"https://[{SECRET}]/ ñ", f"postgresql://{SECRET}@db/asm ñ"])
def test_a_wrong_value_is_never_repeated(environment: dict[str, str], field: str, value: str) -> None:
    variable = f"ASM_{field.upper()}"
    assert [fault for fault in faults(environment | {variable: value}) if fault.startswith(variable)]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ASM_DATABASE_URL", "postgresql://asm@db/asm"),
        ("ASM_DATABASE_URL", "postgresql://asm:{role}@db/asm"),
        ("ASM_DATABASE_URL", "postgresql://{role}@db/{role}"),
        ("ASM_DATABASE_URL", "mysql://{role}@db/asm"),
        ("ASM_DATABASE_URL", "postgresql://{role}@db/"),
        ("ASM_DEPLOYMENT", "ASM Hưng Yên"),
        ("ASM_KEY_STORE", "keys"),
        ("ASM_LISTEN", "8080"),
        ("ASM_LISTEN", "127.0.0.1:70000"),
        ("ASM_LISTEN", "::1:8080"),
        ("ASM_PUBLIC_URL", "asm.hungyen.example"),
        ("ASM_PUBLIC_URL", "https://user@asm.hungyen.example"),
        ("ASM_PUBLIC_URL", "https://asm.hungyen.example/?a=b"),
        ("ASM_POPULATION_CLIENT_ID", "asm hungyen"),
        ("ASM_POPULATION_CLIENT_SECRET_FILE", "/nonexistent/secret"),
        ("ASM_POPULATION_CLIENT_SECRET_FILE", "/"),
        ("ASM_MAX_BODY_BYTES", "1000"),
        ("ASM_LEASE_SECONDS", "4.5"),
        ("ASM_SHUTDOWN_SECONDS", "0"),
        ("ASM_LOG_LEVEL", "verbose"),
        ("ASM_KEY_PROVIDER", "paper"),
        ("ASM_KEY_VAULT_URL", "http://vault.internal:8200"),
        ("ASM_KEY_VAULT_URL", "https://token@vault.internal"),
        ("ASM_KEY_VAULT_KEY", "../sys/seal"),
        ("ASM_KEY_VAULT_TIMEOUT_SECONDS", "0"),
        ("ASM_KEY_PKCS11_MODULE", "/nonexistent.so"),
    ],
)
def test_a_wrong_value_is_refused(environment: dict[str, str], variable: str, value: str) -> None:
    (fault,) = faults(environment | {variable: value})
    assert fault.startswith(f"{variable}: ")


def test_a_queue_that_cannot_hold_one_flush_is_refused(environment: dict[str, str]) -> None:
    wrong = environment | {"ASM_FLUSH_ROWS": "500", "ASM_INTAKE_QUEUE_ROWS": "100"}
    assert faults(wrong) == ("ASM_INTAKE_QUEUE_ROWS: must be at least flush_rows",)


def test_production_demands_https(environment: dict[str, str]) -> None:
    assert faults(environment | {"ASM_ENVIRONMENT": "production"}) == (
        "ASM_POPULATION_URL: must be https in production",
        "ASM_PUBLIC_URL: must be https in production",
    )


def test_tls_of_the_hl7_listener_is_whole_or_absent(environment: dict[str, str], tmp_path: Path) -> None:
    names = [f"ASM_MLLP_TLS_{name}_FILE" for name in ("CERTIFICATE", "KEY", "CLIENT_CA")]
    files = {}
    for name in names:
        (tmp_path / name).write_text("PEM")
        files[name] = str(tmp_path / name)
    assert load_settings(environment | files).mllp_tls_key_file == tmp_path / names[1]
    for name in names:
        [fault] = faults(environment | {other: path for other, path in files.items() if other != name})
        assert fault.startswith("ASM_MLLP_TLS_CLIENT_CA_FILE: TLS needs")


@pytest.mark.parametrize("provider", ["pkcs11", "vault"])
def test_a_root_key_elsewhere_is_named_whole_or_not_at_all(
    environment: dict[str, str], tmp_path: Path, provider: str
) -> None:
    (tmp_path / "secret-file").write_text("secret")
    file = str(tmp_path / "secret-file")
    whole = {
        "pkcs11": {
            "ASM_KEY_PKCS11_MODULE": file, "ASM_KEY_PKCS11_TOKEN": "asm", "ASM_KEY_PKCS11_PIN_FILE": file
        },
        "vault": {"ASM_KEY_VAULT_URL": "https://vault.internal:8200", "ASM_KEY_VAULT_TOKEN_FILE": file},
    }[provider]  # fmt: skip
    chosen = environment | {"ASM_KEY_PROVIDER": provider}
    assert load_settings(chosen | whole).key_provider == provider
    for name in whole:
        [fault] = faults(chosen | {other: value for other, value in whole.items() if other != name})
        assert fault.startswith(f"ASM_KEY_PROVIDER: {provider} needs ")
    assert load_settings(environment | whole).key_provider == "file"


def test_a_period_of_a_kind_of_facility_is_within_bounds_and_every_wrong_one_is_told(
    environment: dict[str, str],
) -> None:
    name = "ASM_STAY_RETENTION_DAYS_BY_KIND"
    [fault] = faults(environment | {name: "hotel_4_star=365,hotel=732,guesthouse=732,guesthouse=732,medical_facility"})
    assert fault == (
        f"{name}: must be kind=days with commas between; entry 1 needs 366 to 3660 days, entry 2 names no kind of "
        "facility, entry 4 names a kind again, entry 5 needs 366 to 3660 days"
    )
    settings = load_settings(environment | {name: "hotel_4_star=732, medical_facility = 366"})
    assert settings.stay_retention_days_by_kind == {
        FacilityKind.HOTEL_4_STAR: 732, FacilityKind.MEDICAL_FACILITY: 366
    }  # fmt: skip
    periods = periods_of(settings)
    assert [periods.stay_days_of(kind) for kind in (FacilityKind.HOTEL_4_STAR, FacilityKind.GUESTHOUSE)] == [732, 1096]


def test_the_least_environment_gives_the_defaults(environment: dict[str, str]) -> None:
    settings = load_settings(environment)
    assert settings.listen == Address("127.0.0.1", 8080)
    assert settings.mllp_listen is None
    assert settings.public_url == "http://127.0.0.1:8080"
    assert settings.key_store == Path("/var/lib/asm-daemon/keys")


def test_an_ipv6_address_is_written_in_brackets(environment: dict[str, str]) -> None:
    settings = load_settings(environment | {"ASM_LISTEN": "[::1]:0"})
    assert settings.listen == Address("::1", 0)


def test_an_empty_variable_counts_as_absent(environment: dict[str, str]) -> None:
    assert load_settings(environment | {"ASM_MLLP_LISTEN": ""}).mllp_listen is None
    assert faults(environment | {"ASM_DEPLOYMENT": " "}) == ("ASM_DEPLOYMENT is missing",)


def test_variables_of_the_demo_and_of_other_programs_are_left_alone(environment: dict[str, str]) -> None:
    load_settings(environment | {"ASM_POSTGRES_BIN": "/x", "ASM_TEST_POSTGRES_BIN": "/x", "PATH": "/bin"})


def test_settings_are_immutable_and_print_no_secret(environment: dict[str, str]) -> None:
    settings = load_settings(environment)
    assert SECRET not in repr(settings)
    with pytest.raises(ValidationError):
        settings.lease_seconds = 1


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_duration_or_size_names_its_unit() -> None:
    numbers = [name for name, field in Settings.model_fields.items() if field.annotation is int]
    units = r"_(seconds|minutes|hours|days|nights|bytes|rows|percent)$"
    assert [name for name in numbers if not re.search(units, name)] == []


def test_the_example_file_is_the_one_that_the_settings_make() -> None:
    assert EXAMPLE.read_text() == example(), "python -m asm_daemon.settings > deploy/asm-daemon.env.example"


def test_the_example_file_is_accepted_with_its_optional_lines_too(tmp_path: Path) -> None:
    given = dict(re.findall(r"^#?(ASM_\w+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
    assert len(given) == len(Settings.model_fields)
    for variable in given:
        if variable.endswith("_FILE"):
            (tmp_path / variable).write_text(SECRET)
            given[variable] = str(tmp_path / variable)
    settings = load_settings(given)
    assert settings.mllp_listen == Address("10.0.0.5", 2575)
