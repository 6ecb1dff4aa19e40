"""Pytest plugin: which lines each test executes, and how long it takes.

Coverage.py counts; this says whose lines they are. What a shared fixture executes belongs to every
test that uses it. The commands that a test starts count as well: they inherit `TEST_CONTEXT`.
"""

import json
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coverage
import pytest

seconds: dict[str, float] = {}  # of a test or of a shared fixture, without those that it needs
fixtures: dict[str, list[str]] = {}  # of each test: the shared ones that it uses
unusable: set[str] = set()  # tests that failed or were skipped
running: list[str] = []  # the test, and the fixtures that are being set up for it


def _switch() -> None:
    name = running[-1] if running else ""
    os.environ["TEST_CONTEXT"] = name
    if (counter := coverage.Coverage.current()) is not None:
        counter.switch_context(name)


@contextmanager
def _context(name: str) -> Iterator[None]:
    running.append(name)
    _switch()
    before, began = sum(seconds.values()), time.monotonic()
    try:
        yield
    finally:
        nested = sum(seconds.values()) - before
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began - nested
        running.pop()
        _switch()


def _name(fixture: Any) -> str:
    return f"fixture {fixture.baseid}::{fixture.argname}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Count what is executed from now on for this test."""
    of_name = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    used = [of_name[name][-1] for name in getattr(item, "fixturenames", []) if name in of_name]
    fixtures[item.nodeid] = [_name(one) for one in used if one.scope != "function"]
    with _context(item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Generator[None, Any, Any]:
    """Count what is executed from now on for this fixture, if it is shared."""
    if fixturedef.scope == "function":
        return (yield)
    with _context(_name(fixturedef)):
        return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember which tests say nothing."""
    if not report.passed:
        unusable.add(report.nodeid)


def pytest_sessionfinish() -> None:
    """Write down what was measured in this process."""
    tests = {
        test: {"seconds": seconds[test], "fixtures": {one: seconds.get(one, 0.0) for one in used}}
        for test, used in fixtures.items()
        if test not in unusable
    }
    file = Path(os.environ["TEST_RECORDS"]) / f"{os.getpid()}.json"
    file.write_text(json.dumps({"tests": tests, "unusable": sorted(unusable)}), encoding="utf-8")
