import re
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from services.retriever.metrics import Metrics


def test_every_figure_of_a_replica_is_explained_and_there_is_no_other() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    page = generate_latest(registry).decode()
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^# TYPE (worldkv_retriever_\w+) ", page, re.MULTILINE))
    explained = set(re.findall(r"`(worldkv_retriever_\w+)`", text))
    assert {name for name in shown if not name.endswith("_created")} == explained


def test_unwanted_slots_and_unknown_chunks_are_counted() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.found("coverage", 0.01, candidates=9, wanted=4, hits=1, missing=3)
    metrics.found("coverage", 0.01, candidates=1, wanted=4, hits=1, missing=0)
    figures = {
        name: registry.get_sample_value(f"worldkv_retriever_{name}_total")
        for name in ("hits", "abstained", "partial", "missing")
    }
    assert figures == {"hits": 2, "abstained": 3, "partial": 1, "missing": 3}
