"""Plays the conformance suite in Python; tests/conformance/README.md tells what a case is and what is answered.

Usage: python runner.py COMPONENT CASES
  COMPONENT  the component, as a file
  CASES      the directory with the cases
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

from authority import Authority, Component, Entry, Refusal, StoreError
from memory_store import MemoryStore

REFERENCE = re.compile(r"<([^.<>]+)\.([^.<>]+)>")


def to_json(value: Any) -> Any:
    """A value of the contract as it is written in JSON. No case of the contract has an option for payload."""
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
    """A store that fails where `faults.json` says so, around one that does not."""

    def __init__(self, store: MemoryStore, case: Path, calls: dict[str, Any]) -> None:
        self._store, self._case, self._calls = store, case, calls
        self._load: list[Any] = []
        self._swap: list[Any] = []

    @contextmanager
    def during(self, number: int) -> Iterator[None]:
        """Around a call of the case, counted from 1. All that was to go wrong must have."""
        faults = self._calls.get(str(number), {})
        self._load, self._swap = list(faults.get("load", [])), list(faults.get("swap", []))
        yield
        assert not self._load and not self._swap, f"call {number}: what was to go wrong never came"

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
            # This component has no use for the version, but another may.
            assert self._store.load() == Entry(version, document)
        if fault and "written" in fault:
            fail(fault["written"])
        return version


def fail(fault: dict[Any, str] | None) -> None:
    """Raises the error of the contract that this stands for, if it is one."""
    for kind, text in (fault or {}).items():
        raise StoreError(kind, text)


def play(component: Component, case: Path) -> dict[str, Any]:
    """What comes back from a case."""
    started = time.time_ns() // 1_000_000
    before = case / "before.jsonl"
    store = MemoryStore(before.read_bytes().decode() if before.exists() else None)
    script = case / "faults.json"
    faults = json.loads(script.read_bytes()) if script.exists() else {}
    scripted = ScriptedStore(store, case, faults.get("calls", {}))
    authority = Authority(component, scripted)
    named: dict[str, Record] = {}
    answers = []

    def argument(written: str | int | None) -> str | int | None:
        if isinstance(written, str) and (reference := REFERENCE.fullmatch(written)):
            name, field = reference.groups()
            value: str | int | None = vars(named[name])[field]
            return value
        return written

    def answer(call: dict[str, Any]) -> dict[str, Any]:
        try:
            value = authority.call(call["call"], *map(argument, call["args"]))
        except Refusal as refused:
            return {"err": to_json(refused.error)}
        if "as" in call:
            named[call["as"]] = value
        return {"ok": to_json(value)}

    number = faults.get("random")
    urandom = os.urandom if number is None else lambda length: number.to_bytes(length)
    # For the component alone: the store makes its versions with randomness, too.
    with patch("authority.os", SimpleNamespace(urandom=urandom)):
        for at, call in enumerate(json.loads((case / "calls.json").read_bytes()), 1):
            with scripted.during(at):
                answers.append(answer(call))

    entry = store.load()
    return {"case": case.name, "started": started, "answers": answers, "document": entry and entry.document}


def main() -> None:
    wasm, cases = map(Path, sys.argv[1:])
    component = Component(wasm.read_bytes())
    for case in sorted(path for path in cases.iterdir() if path.is_dir()):
        try:
            print(json.dumps(play(component, case)), flush=True)
        except Exception as error:
            error.add_note(f"in the case {case.name}")
            raise


if __name__ == "__main__":
    main()
