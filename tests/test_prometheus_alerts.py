"""The alert rules: they parse, the metrics and labels they name exist, and each leads to where it says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

import asm_daemon.daemon  # noqa: F401 - every metric is made by what the daemon imports
from tests.test_docs import anchors

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "deploy" / "prometheus-alerts.yaml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(FILE.read_text("utf-8"))["groups"] for rule in group["rules"]
]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def known() -> dict[str, set[str]]:
    """Every series of ours with its labels."""
    found: dict[str, set[str]] = {}
    for collector in list(prometheus_client.REGISTRY._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for metric in collector.collect():
            for suffix in SUFFIXES.get(metric.type, ()):
                found[metric.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_is_about_what_exists_and_says_what_to_do(rule: dict[str, Any]) -> None:
    series, text = known(), rule["expr"]
    named = set(re.findall(r"\basm_\w+", text))
    assert named
    assert named <= set(series)
    for name, chosen in re.findall(r"\b(asm_\w+)\{([^}]*)\}", text):
        assert set(re.findall(r"(\w+)=", chosen)) <= series[name], name
    for by in re.findall(r"by \(([^)]*)\)", text):
        assert set(by.split(", ")) <= set.union(*(series[name] for name in named))
    assert text.count("(") == text.count(")")
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"[0-9]+[smh]", rule.get("for", "1m"))
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert " · " in rule["annotations"]["summary"]
    page, _, heading = rule["annotations"]["runbook"].partition("#")
    assert heading in anchors((ROOT / page).read_text("utf-8"))


def test_names_of_rules_are_unique() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
