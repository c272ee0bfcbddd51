"""``bnbenv status --metrics``: valid as Prometheus' text format and as OpenMetrics, and it says what status says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from bnbenv.export.metrics import metrics

SCREENS = Path(__file__).parents[1] / "cli" / "screens"
STATUS = sorted(path.stem for path in SCREENS.glob("status-*.json"))


def samples(text: str, read: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in read(text):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, "the collector refuses a sample that is there twice"
            assert sample.timestamp is None
            found[key] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> list[float]:
    """The values of a metric whose labels hold these."""
    found = samples(text, read_prometheus)
    return [value for (one, have), value in found.items() if one == name and set(labels.items()) <= set(have)]


@pytest.mark.parametrize("name", STATUS)
def test_both_formats_read_the_same(name: str) -> None:
    document = json.loads((SCREENS / f"{name}.json").read_text())
    text = metrics(document, 1_795_000_000.5)
    found = samples(text, read_prometheus)
    assert found == samples(text, read_openmetrics)
    assert text.endswith("\n# EOF\n")
    project = document["project"]
    assert all(dict(labels)["project"] == project for _, labels in found)
    assert value(text, "bnbenv_in_sync") == [float(document["in_sync"])]
    assert value(text, "bnbenv_status_timestamp_seconds") == [1_795_000_000.5]
    for row in document["environments"]:
        own = {"env": row["env"], "project": project}
        assert value(text, "bnbenv_environment_in_sync", **own) == [float(row["in_sync"])]
        codes = {reason["code"] for reason in row["reasons"]}
        for code in codes:
            assert value(text, "bnbenv_environment_reason", code=code, **own) == [1.0]
        assert len(value(text, "bnbenv_environment_reason", **own)) == len(codes)
        number = row["generation"]  # 0 of one that was adopted
        assert value(text, "bnbenv_environment_generation", **own) == ([number] if number is not None else [])
    state = document["host"]["state"]
    assert value(text, "bnbenv_driver_state", state=state) == [1.0]
    assert sum(value(text, "bnbenv_driver_state")) == 1.0


def test_names_with_quotes_and_line_ends_stay_whole() -> None:
    document = json.loads((SCREENS / "status-in-sync.json").read_text())
    name = 'a "quoted" \\ folder\nof two lines'
    text = metrics({**document, "project": name}, 0.0)
    assert 'project="a?"' in metrics({**document, "project": "a\udcff"}, 0.0)  # no UTF-8
    for read in (read_prometheus, read_openmetrics):
        assert {dict(labels)["project"] for _, labels in samples(text, read)} == {name}


def test_the_file_is_for_all_to_read_and_written_in_one_step(empty: Any, tmp_path: Path) -> None:
    file = tmp_path / "metrics" / "bnbenv.prom"
    ran = empty("status", "-q", "--metrics", str(file))
    assert ran.code == 3
    assert file.stat().st_mode & 0o777 == 0o644
    assert value(file.read_text(), "bnbenv_environment_reason", code="no-environment") == [1.0]
    assert [path.name for path in file.parent.iterdir()] == ["bnbenv.prom"]
    ran = empty("status", "--metrics", str(file / "below"))
    assert ran.code == 1
    assert "cannot be written" in ran.stderr
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ran = empty("status", "--metrics", str(pipe))
    assert (ran.code, pipe.is_fifo()) == (2, True)
    assert "is a device, a pipe or a folder" in ran.stderr
