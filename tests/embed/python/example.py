"""The life of an operator token, in Python. Every step says what must come of it, so this is a test as well.

Usage: python example.py COMPONENT
  COMPONENT  the component, as a file
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wasmtime import WasmtimeError, wat2wasm
from wasmtime.component import Variant

from authority import Authority, Component, Entry, Refusal, StoreError
from memory_store import MemoryStore

ORIGIN = "example"


def refusal(function: Callable[..., Any], *arguments: Any) -> Variant:
    """What the contract answers with `err` is raised: the case is in `tag`, its detail in `payload`."""
    try:
        function(*arguments)
    except Refusal as refused:
        return refused.error
    raise AssertionError("it was not refused")


def failure(kind: type[Exception], function: Callable[..., Any], *arguments: Any) -> str:
    """What the exception says that must come out of this."""
    try:
        function(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError("it did not fail")


component = Component(Path(sys.argv[1]).read_bytes())
store = MemoryStore()
call = Authority(component, store).call


def accepted(secret: str) -> bool:
    """Whether this is the secret of the operator token."""
    principal = call("authenticator.authenticate", secret)
    return (principal.id, principal.kind) == (0, "operator")


def stored() -> str:
    """The document."""
    entry = store.load()
    assert entry is not None
    return entry.document


# Create the operator token. The secret is shown this once; the store holds its hash.
created = call("tokens.create-operator", ORIGIN)
first = created.secret
assert re.fullmatch(r"apiv3_[\w-]{86}", first)
assert first not in stored()
print(f"created token {created.info.id}, {created.info.name}")

# Check what a request presents.
assert accepted(first)
print("its secret is accepted")

# Replace it. Without an overlap the old secret is dead before the new one is shown.
second = call("tokens.regenerate", first, 0, ORIGIN).secret
assert accepted(second)
assert refusal(call, "authenticator.authenticate", first) == Variant("unknown-token")
assert refusal(call, "tokens.regenerate", first, 0, ORIGIN) == Variant("unauthenticated")
print("regenerated: the new secret is accepted, the old one refused")


# How errors arrive.
class Broken:
    """A store that cannot answer."""

    def load(self) -> Entry | None:
        raise StoreError("unavailable", "the disk is gone")

    def swap(self, expected: str | None, document: str) -> str | None:
        raise StoreError("unavailable", "the disk is gone")


assert refusal(call, "tokens.create-operator", ORIGIN) == Variant("already-exists", "_admin")
assert failure(ValueError, call, "tokens.create-named", second, "ci", -1, ORIGIN)
blind = Authority(component, Broken())
assert refusal(blind.call, "authenticator.authenticate", second) == Variant("unavailable")
assert refusal(blind.call, "authenticator.prepare") == Variant("unavailable", "the disk is gone")
assert refusal(blind.call, "tokens.regenerate", second, 0, ORIGIN) == Variant("unavailable", "the disk is gone")
print("without its store it accepts nobody, and tells why")


# A store that cannot say whether it has written: the component looks, so that no secret is lost for nothing. Where that is
# not possible either, it says so.
class Silent:
    """A store that writes and then breaks: with an exception of its own, or for good."""

    broken = False

    def __init__(self, for_good: bool) -> None:
        self.for_good = for_good

    def load(self) -> Entry | None:
        if self.broken:
            raise OSError("the disk is gone")
        return store.load()

    def swap(self, expected: str | None, document: str) -> str | None:
        store.swap(expected, document)
        self.broken = self.for_good
        raise OSError("the connection broke")


second = Authority(component, Silent(False)).call("tokens.regenerate", second, 0, ORIGIN).secret
call = Authority(component, store).call
assert accepted(second)
try:
    Authority(component, Silent(True)).call("tokens.create-named", second, "ci", None, ORIGIN)
    raise AssertionError("nobody knows that it was made")
except Refusal as doubt:
    assert doubt.error == Variant("unknown-outcome", "the connection broke")
    assert isinstance(doubt.__cause__, OSError)
print("a secret is not lost with the answer of the store")


# Two hosts on one store regenerate at once: the other one is faster, between this one's load and swap.
class Overtaken:
    """A store of which someone else makes use, once, just before this one does."""

    third: str | None = None

    def load(self) -> Entry | None:
        return store.load()

    def swap(self, expected: str | None, document: str) -> str | None:
        self.third = self.third or call("tokens.regenerate", second, 0, ORIGIN).secret
        return store.swap(expected, document)


overtaken = Overtaken()
slower = Authority(component, overtaken)
assert refusal(slower.call, "tokens.regenerate", second, 0, ORIGIN) == Variant("unauthenticated")
assert overtaken.third is not None
assert accepted(overtaken.third)
print("of two that regenerate at once, one succeeds")

# A document that does not fit into its memory makes it trap. The next call gets a new instance.
swapped = MemoryStore("x" * (64 << 20))
survivor = Authority(component, swapped)
assert "unreachable" in failure(WasmtimeError, survivor.call, "authenticator.prepare")
huge = swapped.load()
assert huge is not None
swapped.swap(huge.version, stored())
survivor.call("authenticator.authenticate", overtaken.third)
print("it was trapped, and replaced")

# It imports what it is lent and nothing else; one that wants more is not run.
assert {name.partition("@")[0] for name in component.imports()} == {
    "optoken:authority/catalog-store",
    "wasi:clocks/wall-clock",
    "wasi:random/random",
}
ENVIRONMENT = "wasi:cli/environment@0.2.0"
greedy = wat2wasm(f"""(component (import "{ENVIRONMENT}" (instance
    (export "get-arguments" (func (result (list string)))))))""")
assert ENVIRONMENT in failure(WasmtimeError, Authority, Component(bytes(greedy)), store)
print(f"it needs {', '.join(sorted(component.imports()))}")
