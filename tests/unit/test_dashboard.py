"""What Prometheus and Grafana are told to look at exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from worldkv.store import Miss

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "worldkv.json").read_text())
PROVISIONING = DEPLOY / "grafana" / "provisioning"
ANYWHERE = {"job", "instance"}
"""Labels that Prometheus itself puts on everything."""
PROCESS: dict[str, set[str]] = {"process_resident_memory_bytes": set(), "process_open_fds": set(), "up": set()}
"""Of prometheus_client's own collectors, and of Prometheus."""


def known() -> dict[str, set[str]]:
    """Labels of every metric that the services show, by docs/metrics.md, which their own tests hold to be complete."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if not line.startswith("| `"):
            continue
        names, labels, _ = (cell.strip() for cell in line.strip("|").split("|", 2))
        for name in re.findall(r"`([a-z_]+)`", names):
            found[name] = set(re.findall(r"`([a-z_]+)`", labels))
    assert len(found) > 60, "the tables of docs/metrics.md could not be read"
    found["grpc_server_handled_total"] |= found["grpc_server_started_total"]
    return found | PROCESS


KNOWN = known()


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


EXPRESSIONS = [
    *(pytest.param(rule["expr"], id=rule["alert"]) for group in RULES["groups"] for rule in group["rules"]),
    *(pytest.param(each["expr"], id=panel["title"]) for panel in panels() for each in panel["targets"]),
]


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Metrics of an expression, each with the labels that it is chosen by. Raises ValueError for what is no PromQL."""
    todo: list[Any] = [promql.parse(expression.replace("$__rate_interval", "5m"))]
    while todo:
        node = todo.pop()
        match node:
            case promql.VectorSelector():
                yield str(node.name), {each.name for each in node.matchers.matchers}
            case promql.MatrixSelector():
                todo.append(node.vector_selector)
            case promql.BinaryExpr():
                todo += [node.lhs, node.rhs]
            case promql.Call():
                todo += node.args
            case promql.AggregateExpr():
                todo += [each for each in (node.expr, node.param) if each is not None]
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                todo.append(node.expr)
            case promql.NumberLiteral() | promql.StringLiteral():
                pass
            case _:
                raise AssertionError(f"{type(node)} in {expression}")


def labels_of(metric: str) -> set[str]:
    """Labels of a metric, or of a histogram's series. Raises KeyError for one that nobody shows."""
    if (histogram := metric.removesuffix("_bucket")) != metric:
        return KNOWN[histogram] | {"le"}
    return KNOWN[metric]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_are_of_metrics_and_labels_that_are_shown(expression):
    used = dict(selectors(expression))
    assert used
    for metric, chosen in used.items():
        assert chosen <= labels_of(metric) | ANYWHERE, (metric, chosen)
    grouped = {name for names in re.findall(r"by \(([^)]*)\)", expression) for name in names.split(", ")}
    assert grouped <= set.union(ANYWHERE, *map(labels_of, used))


def test_a_metric_that_nobody_shows_is_found():
    ((metric, _),) = selectors("rate(worldkv_kvstore_no_such_total[5m])")
    with pytest.raises(KeyError):
        labels_of(metric)


def test_reasons_that_alerts_choose_by_are_reasons():
    text = (DEPLOY / "prometheus" / "rules.yml").read_text()
    reasons = set(re.findall(r'reason="(\w+)"', text))
    assert reasons
    assert reasons <= {each.value for each in Miss}


def test_every_alert_says_what_is_so():
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    told = (ROOT / "docs" / "operations.md").read_text()
    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in told] == []


def test_legends_show_labels_that_are_left():
    for panel in panels():
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert label in ANYWHERE or label in target["expr"], (panel["title"], label)


def test_the_dashboard_can_be_provisioned():
    assert DASHBOARD["uid"] == "worldkv"
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["DS_PROMETHEUS"]
    for panel in panels():
        sources = [panel["datasource"], *(each["datasource"] for each in panel["targets"])]
        assert all(each == {"type": "prometheus", "uid": "${DS_PROMETHEUS}"} for each in sources)
        assert panel["description"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "worldkv.yaml").read_text())["providers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    assert any(each.endswith(f":{provider['options']['path']}:ro") for each in compose["grafana"]["volumes"])


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells


def test_prometheus_looks_at_every_service():
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert config["rule_files"] == ["rules.yml"]
    assert {job["job_name"] for job in config["scrape_configs"]} == {"kvstore", "retriever", "generator", "gateway"}
    aliases = {
        alias
        for part in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
        for alias in part.get("networks", {}).get("default", {}).get("aliases", [])
    }
    for job in config["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        assert set(found["names"]) <= aliases
        assert found["port"] == 9090
