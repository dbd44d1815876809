"""Runs the conformance cases in Python. tests/conformance/README.md defines cases and results.

Usage: python runner.py COMPONENT CASES
  COMPONENT  the component, as a file
  CASES      the directory of the cases
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from wasmtime.component import Record, Variant

from authority import (
    Access,
    Argument,
    Authority,
    Caller,
    Component,
    ContractError,
    DatabaseAccess,
    Entry,
    StoreError,
)
from memory_store import MemoryStore

REFERENCE = re.compile(r"<([^.<>]+)\.([^.<>]+)>")


def to_json(value: Any) -> Any:
    """Converts a value of the contract to JSON. No case has an option as its payload."""
    match value:
        case Variant(case, None):
            return case
        case Variant(case, payload):
            return {case: to_json(payload)}
        case Record():
            return {name: to_json(field) for name, field in vars(value).items()}
        case list():
            return [to_json(element) for element in value]
    return value


class ScriptedStore:
    """Wraps a store and injects the faults of `faults.json`."""

    def __init__(self, store: MemoryStore, case: Path, calls: dict[str, Any]) -> None:
        self._store, self._case, self._calls = store, case, calls
        self._load: list[Any] = []
        self._swap: list[Any] = []

    @contextmanager
    def during(self, number: int) -> Iterator[None]:
        """Surrounds a call of the case, counted from 1. Every fault of that call must occur."""
        faults = self._calls.get(str(number), {})
        self._load, self._swap = list(faults.get("load", [])), list(faults.get("swap", []))
        yield
        assert not self._load and not self._swap, f"call {number}: a fault did not occur"

    def load(self) -> Entry | None:
        fail(self._load.pop(0) if self._load else None)
        return self._store.load()

    def swap(self, expected: str | None, document: str) -> str | None:
        fault = self._swap.pop(0) if self._swap else None
        match fault:
            case {"overtaken": str(file)}:
                entry = self._store.load()
                self._store.swap(entry and entry.version, (self._case / file).read_bytes().decode())
            case {"written": dict()}:
                pass
            case _:
                fail(fault)
        version = self._store.swap(expected, document)
        if version is not None:
            # The component ignores the version, but another component may use it.
            assert self._store.load() == Entry(version, document)
        if fault and "written" in fault:
            fail(fault["written"])
        return version


def fail(fault: dict[Any, str] | None) -> None:
    """Raises the store error that the fault names, if any."""
    for kind, text in (fault or {}).items():
        raise StoreError(kind, text)


def target(written: Any) -> Variant:
    """Returns the target of a request."""
    match written:
        case {"database": database}:
            return Variant("database", DatabaseAccess(**database))
        case {"system": str(name)}:
            return Variant("system", name)
    return Variant(written)


def run_case(component: Component, case: Path) -> dict[str, Any]:
    """Returns the results of a case."""
    started = time.time_ns() // 1_000_000
    before = case / "before.jsonl"
    store = MemoryStore(before.read_bytes().decode() if before.exists() else None)
    script = case / "faults.json"
    faults = json.loads(script.read_bytes()) if script.exists() else {}
    scripted = ScriptedStore(store, case, faults.get("calls", {}))
    authority = Authority(component, scripted)
    named: dict[str, Record] = {}
    results = []

    def argument(written: Any) -> Argument:
        # A field too many or too few is an error.
        if isinstance(written, dict) and "target" in written:
            return Access(**{**written, "target": target(written["target"])})
        if isinstance(written, dict):
            return Caller(**{name: argument(field) for name, field in written.items()})
        if isinstance(written, str) and (reference := REFERENCE.fullmatch(written)):
            name, field = reference.groups()
            value: Argument = vars(named[name])[field]
            return value
        assert written is None or isinstance(written, (str, int, list))
        return written

    def result(call: dict[str, Any]) -> dict[str, Any]:
        try:
            value = authority.call(call["call"], *map(argument, call["args"]))
        except ContractError as raised:
            return {"err": to_json(raised.error)}
        if "as" in call:
            named[call["as"]] = value
        return {"ok": to_json(value)}

    number = faults.get("random")
    urandom = os.urandom if number is None else lambda length: number.to_bytes(length)
    # Patched for the component alone, as the store also creates random versions.
    with patch("authority.os", SimpleNamespace(urandom=urandom)):
        for at, call in enumerate(json.loads((case / "calls.json").read_bytes()), 1):
            with scripted.during(at):
                results.append(result(call))

    entry = store.load()
    return {"case": case.name, "started": started, "answers": results, "document": entry and entry.document}


def main() -> None:
    wasm, cases = map(Path, sys.argv[1:])
    component = Component(wasm.read_bytes())
    for case in sorted(path for path in cases.iterdir() if path.is_dir()):
        try:
            print(json.dumps(run_case(component, case)), flush=True)
        except Exception as error:
            error.add_note(f"case {case.name}")
            raise


if __name__ == "__main__":
    main()
