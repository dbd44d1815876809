"""Plays the conformance suite in Python; tests/conformance/README.md tells what a case is and what is answered.

Usage: python runner.py COMPONENT CASES
  COMPONENT  the component, as a file
  CASES      the directory with the cases
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from wasmtime.component import Record, Variant

from authority import Authority, Component, Refusal
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


def play(component: Component, case: Path) -> dict[str, Any]:
    """What comes back from a case."""
    before = case / "before.jsonl"
    store = MemoryStore(before.read_bytes().decode() if before.exists() else None)
    authority = Authority(component, store)
    named: dict[str, Record] = {}
    answers = []

    def argument(written: str | int | None) -> str | int | None:
        if isinstance(written, str) and (reference := REFERENCE.fullmatch(written)):
            name, field = reference.groups()
            value: str | int | None = vars(named[name])[field]
            return value
        return written

    for call in json.loads((case / "calls.json").read_bytes()):
        try:
            value = authority.call(call["call"], *map(argument, call["args"]))
        except Refusal as refused:
            answers.append({"err": to_json(refused.error)})
            continue
        answers.append({"ok": to_json(value)})
        if "as" in call:
            named[call["as"]] = value

    entry = store.load()
    return {"case": case.name, "answers": answers, "document": entry and entry.document}


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
