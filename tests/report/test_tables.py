"""The CSV files: every row and every field of the document, and nothing that a spreadsheet runs."""

from __future__ import annotations

import csv
import io
import re

import pytest

from agent.report.document import Review
from agent.report.render import render_tables
from tests.report.sample import HOSTILE, REVIEWS, sample


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def expected_rows(review: Review) -> dict[str, int]:
    return {
        "totals.csv": 1 if review.previous_totals is None else 2,
        "classes.csv": len(review.classes),
        "parts.csv": len(review.parts),
        "services.csv": len(review.services),
        "groups.csv": len(review.groups),
        "days.csv": len(review.days),
        "trends.csv": len(review.trends) * len(review.days),
        "roofline_cells.csv": sum(len(each.cells) for each in review.rooflines),
        "clock_losses.csv": len(review.losses.clocks),
        "request_losses.csv": len(review.losses.requests),
        "faults.csv": len(review.losses.faults),
        "slos.csv": len(review.slos),
        "right_sizing.csv": sum(max(len(each.alternatives), 1) for each in review.right_sizing),
        "offenders.csv": len(review.offenders),
        "identities.csv": len(review.identities),
        "quality.csv": 1,
        "gaps.csv": len(review.quality.gaps),
        "evidence.csv": len(review.quality.evidence),
        "disagreements.csv": len(review.quality.disagreements),
        "problems.csv": len(review.problems),
        "queries.csv": len(review.queries),
    }


@pytest.mark.parametrize("name", REVIEWS)
def test_every_row_is_there(name: str) -> None:
    review = REVIEWS[name]()
    tables = render_tables(review)
    assert {file: len(read(text)) for file, text in tables.items()} == expected_rows(review)


def test_the_sample_fills_every_file() -> None:
    rows = {file: len(read(text)) for file, text in render_tables(REVIEWS["poor data"]()).items()}
    assert min(rows.values()) >= 1


def test_sums_of_columns_are_those_of_the_review() -> None:
    review, tables = sample(), render_tables(sample())

    def total(file: str, column: str) -> float:
        return sum(float(row[column] or 0) for row in read(tables[file]))

    assert total("services.csv", "usd") == pytest.approx(sum(each.usd or 0 for each in review.services))
    assert total("services.csv", "usd") > 100_000
    for file in ("classes.csv", "parts.csv", "days.csv"):
        assert total(file, "gpu_hours") == pytest.approx(review.totals.gpu_hours)
    assert total("days.csv", "idle_gpu_hours") == pytest.approx(review.totals.idle_gpu_hours)
    assert total("trends.csv", "generation_tokens") > 1e9
    cells = sum(cell.gpu_hours for each in review.rooflines for cell in each.cells)
    assert total("roofline_cells.csv", "gpu_hours") == pytest.approx(cells)


def test_every_field_of_a_service_is_a_column() -> None:
    service = sample().services[0]
    (row, *_) = read(render_tables(sample())["services.csv"])
    for name, value in service:
        if isinstance(value, str | float):
            assert row[name] == str(value), name
    for name, hours in service.hours_by_class.items():
        assert float(row[f"{name}_gpu_hours"]) == hours
    assert row["batch_mean"] == "61.0"
    assert row["batch_ridge"] == "", "what nobody can tell is empty"
    assert row["batch_kv_limit"] == "402.0"


def test_a_size_that_is_refused_says_why_and_each_alternative_has_a_row() -> None:
    rows = read(render_tables(sample())["right_sizing.csv"])
    kinds = [row["alternative_kind"] for row in rows]
    assert kinds == ["fewer_replicas", "other_gpu", "quantized", "", ""]
    assert all(bool(row["refused"]) == (row["alternative_kind"] == "") for row in rows)
    assert rows[0]["alternative_savings_usd"] == "10585.0"


def test_money_is_empty_without_prices() -> None:
    found = 0
    for text in render_tables(REVIEWS["no prices"]()).values():
        for row in read(text):
            for column, value in row.items():
                if "usd" in column and column not in ("unit", "promql"):
                    found += 1
                    assert value == "", column
    assert found > 100


def test_lines_and_quotes_are_those_of_rfc_4180() -> None:
    for text in render_tables(REVIEWS["hostile labels"]()).values():
        assert text.endswith("\r\n")
        header = text.split("\r\n", 1)[0]
        assert re.fullmatch(r'[a-z0-9_,]+|.*".*', header, re.DOTALL)
    row = next(
        row
        for row in read(render_tables(REVIEWS["hostile labels"]())["services.csv"])
        if "alert" in row["model"]
    )
    assert row["model"] == HOSTILE


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_label_is_a_formula(name: str) -> None:
    review = sample()
    service = review.services[0].model_copy(update={"model": name, "gpus": -1.0})
    tables = render_tables(review.model_copy(update={"services": (service,)}))
    (row,) = read(tables["services.csv"])
    assert row["model"] == f"'{name}"
    assert row["gpus"] == "-1.0", "a number is a number"


def test_tables_without_rows_have_their_columns() -> None:
    tables = render_tables(REVIEWS["nothing recorded"]())
    for file in ("services.csv", "slos.csv", "right_sizing.csv", "trends.csv", "faults.csv"):
        header = tables[file].split("\r\n")[0].split(",")
        assert len(header) >= 3
        full = render_tables(sample())[file].split("\r\n")[0].split(",")
        assert set(header) <= set(full), "the same names as with rows"
