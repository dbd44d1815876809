"""Measures the component in Python, and prints one line of JSON.

Usage: python bench.py COMPONENT
  COMPONENT  the component, as a file
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from authority import Authority, Component
from memory_store import MemoryStore

DURATION_SECONDS = 2.0


def measure(call: Callable[[], Any]) -> float:
    """Returns the mean duration of a call in seconds."""
    start = perf_counter()
    calls = 0
    while (elapsed := perf_counter() - start) < DURATION_SECONDS:
        call()
        calls += 1
    return elapsed / calls


def main() -> None:
    wasm = Path(sys.argv[1])
    start = perf_counter()
    component = Component(wasm.read_bytes())
    loaded = perf_counter() - start

    store = MemoryStore()
    authority = Authority(component, store)
    secret = authority.call("tokens.create-operator", "bench").secret
    authenticate = measure(lambda: authority.call("authenticator.authenticate", secret))
    instantiate = measure(lambda: Authority(component, store))
    result = {
        "host": "python",
        "authenticate_per_second": round(1 / authenticate),
        "instantiate_microseconds": round(instantiate * 1e6),
        "load_milliseconds": round(loaded * 1e3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
