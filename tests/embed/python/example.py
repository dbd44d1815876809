"""The lifecycle of an operator token, in Python. Every step asserts its result, so the example is
also a test.

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

from authority import (
    Access,
    Authority,
    Caller,
    Component,
    ContractError,
    DatabaseAccess,
    Entry,
    StoreError,
)
from memory_store import MemoryStore

ORIGIN = "example"


def caller(credential: str) -> Caller:
    """Returns the caller that presents this secret."""
    return Caller(credential, ORIGIN)


def contract_error(function: Callable[..., Any], *arguments: Any) -> Variant:
    """Returns the `err` that the function raises: the case in `tag`, its detail in `payload`."""
    try:
        function(*arguments)
    except ContractError as raised:
        return raised.error
    raise AssertionError("the call did not fail")


def exception_text(kind: type[Exception], function: Callable[..., Any], *arguments: Any) -> str:
    """Returns the text of the exception that the function must raise."""
    try:
        function(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError("the call did not fail")


component = Component(Path(sys.argv[1]).read_bytes())
store = MemoryStore()
call = Authority(component, store).call


def accepted(secret: str) -> bool:
    """Returns whether this is the secret of the operator token."""
    principal = call("authenticator.authenticate", secret)
    return (principal.id, principal.kind) == (0, "operator")


def stored_document() -> str:
    """Returns the stored document."""
    entry = store.load()
    assert entry is not None
    return entry.document


# Create the operator token. The component returns the secret once, and stores its hash.
created = call("tokens.create-operator", ORIGIN)
first = created.secret
assert re.fullmatch(r"apiv3_[\w-]{86}", first)
assert first not in stored_document()
print(f"created token {created.info.id}, {created.info.name}")

# Check the token of a request.
assert accepted(first)
print("the secret is accepted")

# Replace the token. Without an overlap the old secret is invalid before the new one is returned.
second = call("tokens.regenerate", caller(first), None).secret
assert accepted(second)
assert contract_error(call, "authenticator.authenticate", first) == Variant("unknown-token")
assert contract_error(call, "tokens.regenerate", caller(first), None) == Variant("unauthenticated")
print("regenerated: the new secret is accepted, the old one rejected")


# Errors of the contract and of the store.
class FailingStore:
    """A store of which every call fails."""

    def load(self) -> Entry | None:
        raise StoreError("unavailable", "the disk is gone")

    def swap(self, expected: str | None, document: str) -> str | None:
        raise StoreError("unavailable", "the disk is gone")


assert contract_error(call, "tokens.create-operator", ORIGIN) == Variant("already-exists", "_admin")
assert exception_text(ValueError, call, "tokens.create-named", caller(second), "ci", None, -1)
storeless = Authority(component, FailingStore())
assert contract_error(storeless.call, "authenticator.authenticate", second) == Variant("unavailable")
assert contract_error(storeless.call, "authenticator.load") == Variant("unavailable", "the disk is gone")
assert contract_error(storeless.call, "tokens.regenerate", caller(second), None) == Variant(
    "unavailable", "the disk is gone"
)
print("without a store every token is rejected, with the reason")


# The outcome of a swap is unknown. The component loads the catalog again, so no secret is lost. If
# that fails, too, it returns `unknown-outcome`.
class LossyStore:
    """A store that writes and then raises an OSError, once or from then on."""

    broken = False

    def __init__(self, permanently: bool) -> None:
        self.permanently = permanently

    def load(self) -> Entry | None:
        if self.broken:
            raise OSError("the disk is gone")
        return store.load()

    def swap(self, expected: str | None, document: str) -> str | None:
        store.swap(expected, document)
        self.broken = self.permanently
        raise OSError("the connection broke")


second = Authority(component, LossyStore(False)).call("tokens.regenerate", caller(second), None).secret
call = Authority(component, store).call
assert accepted(second)
try:
    Authority(component, LossyStore(True)).call("tokens.create-named", caller(second), "ci", None, None)
    raise AssertionError("the outcome was not reported as unknown")
except ContractError as raised:
    assert raised.error == Variant("unknown-outcome", "the connection broke")
    assert isinstance(raised.__cause__, OSError)
print("the secret survives a lost response of the store")


# Two hosts with one store regenerate at once. The other host swaps between load and swap of this
# one.
class ContendedStore:
    """A store that another host changes once, before the first swap of this host."""

    third: str | None = None

    def load(self) -> Entry | None:
        return store.load()

    def swap(self, expected: str | None, document: str) -> str | None:
        self.third = self.third or call("tokens.regenerate", caller(second), None).secret
        return store.swap(expected, document)


contended = ContendedStore()
slower = Authority(component, contended)
assert contract_error(slower.call, "tokens.regenerate", caller(second), None) == Variant("unauthenticated")
assert contended.third is not None
assert accepted(contended.third)
print("of two concurrent regenerations, one succeeds")

# A token with permissions is no admin token: each request needs one that covers it.
permissions = ["db:sensors:read", "http:/orders/*:GET"]
scoped = call("tokens.create-named", caller(contended.third), "scoped", permissions, None).secret
principal = call("authenticator.authenticate", scoped)
assert (principal.id, principal.kind) == (2, "scoped")
assert not accepted(scoped)


def access(method: str, path: str, target: Variant) -> Access:
    """Returns a request to a host that is not known."""
    return Access(method, "", path, None, target)


READ, WRITE = (Variant("database", DatabaseAccess("sensors", action)) for action in ("read", "write"))
for request in [access("GET", "/orders/7", Variant("http")), access("POST", "/api/v3/query_sql", READ)]:
    assert call("authenticator.authorize", scoped, request).kind == "scoped"
for request in [
    access("POST", "/orders/7", Variant("http")),
    access("GET", "/orders/../users", Variant("http")),
    access("POST", "/api/v3/write_lp", WRITE),
    access("GET", "/", Variant("administration")),
]:
    assert contract_error(call, "authenticator.authorize", scoped, request) == Variant("forbidden")
    assert call("authenticator.authorize", contended.third, request).kind == "operator"
    assert contract_error(call, "authenticator.authorize", second, request) == Variant("unknown-token")
assert contract_error(call, "tokens.create-named", caller(scoped), "other", None, None) == Variant("forbidden")
print("a token with permissions may do what they cover, and nothing else")

# A document that exceeds the memory of the instance makes it trap. The next call gets a new one.
swapped = MemoryStore("x" * (64 << 20))
replaced = Authority(component, swapped)
assert "unreachable" in exception_text(WasmtimeError, replaced.call, "authenticator.load")
huge = swapped.load()
assert huge is not None
swapped.swap(huge.version, stored_document())
replaced.call("authenticator.authenticate", contended.third)
print("an instance that trapped is replaced")

# The component imports exactly this. A component that imports more cannot be instantiated.
assert {name.partition("@")[0] for name in component.imports()} == {
    "optoken:authority/catalog-store",
    "wasi:clocks/wall-clock",
    "wasi:random/random",
}
ENVIRONMENT = "wasi:cli/environment@0.2.0"
excessive = wat2wasm(f"""(component (import "{ENVIRONMENT}" (instance
    (export "get-arguments" (func (result (list string)))))))""")
assert ENVIRONMENT in exception_text(WasmtimeError, Authority, Component(bytes(excessive)), store)
print(f"the component imports {', '.join(sorted(component.imports()))}")
