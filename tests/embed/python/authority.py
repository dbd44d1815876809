"""Hosts the component with wasmtime.

The host provides a store, randomness and a clock, and nothing else. WASI is not linked, so the
component has no files, no environment and no network. A build that imports more cannot be
instantiated.

Limits of Python and of wasmtime's package for it:

- A function of the host cannot return the `err` of a result whose `ok` may be None, as the results
  of `catalog-store` are. `_Err` is the workaround for the release in `requirements.txt`. The
  example fails if the workaround stops working.
- The package does not bound the data that an instance passes to the host. The memory limit of the
  instance bounds it, too.
- The package has unlocked tables of its own, so only one thread at a time should use it.
- Python cannot wipe a secret. A string is immutable, and stays in memory until something
  overwrites it. Pass a secret on at once and keep no reference to it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from wasmtime import Config, Engine, Store
from wasmtime.component import Component as Compiled
from wasmtime.component import ExportIndex, Instance, Linker, Record, ResultType, Variant

MAX_MEMORY = 32 << 20
"""In bytes. Enough for the 10,000 tokens that a catalog may have."""

FUEL = 20_000_000_000
"""The approximate number of instructions of one call.

A command on the largest catalog uses a sixtieth of it, and starts over at most 32 times when other
commands win the swap. Fuel is not a time limit: an empty endless loop runs for about 15 seconds. A
host that needs a shorter limit, or a limit on the store, runs the component in a separate process
and terminates that.
"""


@dataclass(frozen=True)
class Entry(Record):
    """A document and its version."""

    version: str
    document: str


@dataclass(frozen=True)
class Caller(Record):
    """The presented token, and the origin of the request."""

    credential: str
    origin: str


@dataclass(frozen=True)
class DatabaseAccess(Record):
    """A database, and what a request does to it: `read`, `write` or `create`."""

    name: str
    action: str


@dataclass(frozen=True)
class Access(Record):
    """What a request does. The contract is `access` in `wit/authenticator.wit`.

    Host and path must be in normal form. The target is `Variant("http")`,
    `Variant("database", DatabaseAccess(…))`, `Variant("system", "health")` or
    `Variant("administration")`.
    """

    method: str
    host: str
    path: str
    query: str | None
    target: Variant


class StoreError(Exception):
    """The error of a store.

    - `unavailable`: nothing was read or written.
    - `unknown-outcome`, of `swap` only: the document may have been written, now or a little later.
    - `other`: neither is known.

    The text is for the operator of the host, and must not contain the document.
    """

    def __init__(self, kind: Literal["unavailable", "unknown-outcome", "other"], text: str) -> None:
        super().__init__(text)
        self.kind = kind


Argument = str | int | list[str] | Caller | Access | None
"""An argument of a function of the contract."""


class CatalogStore(Protocol):
    """Stores the catalog. The contract is `wit/catalog-store.wit`.

    Both methods raise a `StoreError`. Any other exception counts as the kind `other`: after a
    `swap`, the component checks whether its change was written.
    """

    def load(self) -> Entry | None:
        """Returns the document, or None if none was ever stored."""

    def swap(self, expected: str | None, document: str) -> str | None:
        """Returns the version of the stored document, or None if the current version differs from
        `expected`."""


class ContractError(Exception):
    """An `err` of the contract. Any other exception of a call is a trap, or a defect of this host.

    If the store failed during the call, its last exception is the cause.
    """

    def __init__(self, error: Variant) -> None:
        super().__init__(error.tag if error.payload is None else f"{error.tag}: {error.payload}")
        self.error = error


class Component:
    """The component, compiled once for any number of instances."""

    def __init__(self, wasm: bytes) -> None:
        config = Config()
        config.consume_fuel = True
        self.engine = Engine(config)
        self.compiled = Compiled(self.engine, wasm)
        self._functions: dict[str, ExportIndex] = {}

    def imports(self) -> set[str]:
        """Returns the names of the imports."""
        return set(self.compiled.type.imports(self.engine))

    def function(self, name: str) -> ExportIndex:
        """Returns the index of a function by its WIT name, such as `tokens.create-operator`."""
        if name not in self._functions:
            interface, _, function = name.partition(".")
            exports = self.compiled.get_export_index(f"optoken:authority/{interface}@0.2.0")
            index = exports and self.compiled.get_export_index(function, exports)
            if index is None:
                raise LookupError(f"the contract has no {name}")
            self._functions[name] = index
        return self._functions[name]


class Authority:
    """The functions of the contract for one store.

    `authenticate` uses the catalog that the instance has loaded. After a change by another process,
    the host must create a new `Authority`.
    """

    def __init__(self, component: Component, catalog: CatalogStore) -> None:
        self._component = component
        self._failures: list[Exception] = []
        self._linker = _create_linker(component.engine, catalog, self._failures)
        self._current: tuple[Store, Instance] | None = self._instantiate()

    def call(self, name: str, *arguments: Argument) -> Any:
        """Calls a function by its WIT name. Returns its `ok`, and raises its `err` as a
        `ContractError`."""
        # wasmtime reduces numbers modulo 2^64, so a lifetime of -1 would never end.
        if not all(0 <= argument < 1 << 64 for argument in arguments if isinstance(argument, int)):
            raise ValueError("a number of the contract has 64 bits and no sign")
        index = self._component.function(name)
        store, instance = self._current = self._current or self._instantiate()
        function = instance.get_func(store, index)
        assert function is not None, f"{name} is not a function"
        store.set_fuel(FUEL)
        self._failures.clear()
        try:
            result = function(store, *arguments)
        except BaseException:
            # A trap leaves the instance in an undefined state. The catalog store holds all state,
            # so the next call gets a new instance.
            self._current = None
            raise
        # wasmtime tags `ok` and `err` if both may have the same Python type, and otherwise returns
        # the payload alone. All errors of the contract are variants, so any other variant is an
        # error.
        match result:
            case Variant("ok", value):
                return value
            case Variant("err", Variant() as error) | (Variant() as error):
                raise ContractError(error) from (self._failures[-1] if self._failures else None)
        return result

    def _instantiate(self) -> tuple[Store, Instance]:
        store = Store(self._component.engine)
        # The component has one module and two shims of its linker. Another build may have more.
        store.set_limits(memory_size=MAX_MEMORY, memories=2, instances=8, tables=8, table_elements=4096)
        store.set_fuel(FUEL)
        return store, self._linker.instantiate(store, self._component.compiled)


@dataclass(frozen=True)
class _Datetime(Record):
    seconds: int
    nanoseconds: int


def _create_linker(engine: Engine, catalog: CatalogStore, failures: list[Exception]) -> Linker:
    """Returns a linker with all imports of the component.

    wasmtime passes its store as the first argument, which no import needs.
    """

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            failures.append(error)
            kind = error.kind if isinstance(error, StoreError) else "other"
            return _Err(Variant(kind, str(error)))

    linker = Linker(engine)
    with linker.root() as root:
        with root.add_instance("optoken:authority/catalog-store@0.2.0") as interface:
            interface.add_func("load", lambda _: call(catalog.load))
            interface.add_func("swap", lambda _, expected, document: call(catalog.swap, expected, document))
        # Every 0.2 release of WASI matches these versions.
        with root.add_instance("wasi:random/random@0.2.0") as interface:
            interface.add_func("get-random-u64", lambda _: int.from_bytes(os.urandom(8)))
        with root.add_instance("wasi:clocks/wall-clock@0.2.0") as interface:
            interface.add_func("now", lambda _: _Datetime(*divmod(time.time_ns(), 1_000_000_000)))
    return linker


@dataclass(frozen=True)
class _Err:
    """The `err` of a result that a function of the host returns.

    wasmtime selects `ok` by the Python type of the returned value. If `ok` may be None, wasmtime
    treats every value as `ok`. A value of this class leaves `err` as the only case.
    """

    error: Variant


def _convert_result(self: ResultType, store: Any, value: Any, ptr: Any) -> None:
    if isinstance(value, _Err):
        # wasmtime creates this type object for each returned value, so the change affects no other.
        self._cases = lambda: [("err", self.err)]  # type: ignore[method-assign]
        value = value.error
    _convert_to_c(self, store, value, ptr)


_convert_to_c = ResultType.convert_to_c
ResultType.convert_to_c = _convert_result  # type: ignore[method-assign]
