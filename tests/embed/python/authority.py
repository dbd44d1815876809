"""Hosts the component under wasmtime.

The component is lent a store, randomness and a clock. It gets nothing else: WASI is not linked, so there are no files,
no environment and no network to be had, and a build that asks for them cannot be instantiated.

What wasmtime's Python package does not offer, and what Python does not:

- A function of the host cannot answer the `err` of a result whose `ok` may be nothing, and those of `catalog-store` are
  such. `_Err` is the way around it, which holds for the release in `requirements.txt`; the example notices when it does
  not.
- It does not count what an instance hands to the host. The limit of its memory bounds that, too.
- It keeps tables of its own without a lock, so that only one thread at a time should use it.
- A secret cannot be wiped: a string is immutable, and lies in memory until something else is written there. Hand a
  secret on at once and keep no reference to it.
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
"""In bytes: room for the 10,000 tokens that a catalog may have."""

FUEL = 20_000_000_000
"""How many instructions, about, one call may take. A command on the largest catalog takes a sixtieth of it, and starts
over at most 32 times when others are faster. It is no time: an endless loop of nothing goes on for some fifteen seconds
before it is out of fuel. Who must be faster, or bound what a store takes too, runs the component in a process of its
own and ends that."""


@dataclass(frozen=True)
class Entry(Record):
    """A document, and the name of the state in which it is."""

    version: str
    document: str


class StoreError(Exception):
    """What a store raises when it cannot answer, by what is known: that nothing was read or written (`unavailable`),
    that it may have been written, now or a little later (`unknown-outcome`, of `swap` only), or neither (`other`).

    The text is for the operator of the host and must hold no document.
    """

    def __init__(self, kind: Literal["unavailable", "unknown-outcome", "other"], text: str) -> None:
        super().__init__(text)
        self.kind = kind


class CatalogStore(Protocol):
    """Where the catalog lies; the contract is `wit/catalog-store.wit`.

    Both raise a `StoreError`. Any other exception counts as one of the kind `other`: after a `swap`, the component looks
    whether its change was made.
    """

    def load(self) -> Entry | None:
        """The document, if there has ever been one."""

    def swap(self, expected: str | None, document: str) -> str | None:
        """Its version once the document is stored, or None if the one that is there is not the expected one."""


class Refusal(Exception):
    """An `err` of the contract. All else that a call raises is a trap or a mistake here.

    Where the store has failed in that call, its last exception is the cause.
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
        """What it wants from its host."""
        return set(self.compiled.type.imports(self.engine))

    def function(self, name: str) -> ExportIndex:
        """Where the function is that the WIT names so: `tokens.create-operator`."""
        if name not in self._functions:
            interface, _, function = name.partition(".")
            exports = self.compiled.get_export_index(f"optoken:authority/{interface}@0.1.0")
            index = exports and self.compiled.get_export_index(function, exports)
            if index is None:
                raise LookupError(f"the contract has no {name}")
            self._functions[name] = index
        return self._functions[name]


class Authority:
    """The contract over one store.

    It answers `authenticate` from the catalog it has read. A host that learns of a change made elsewhere makes a new
    one.
    """

    def __init__(self, component: Component, catalog: CatalogStore) -> None:
        self._component = component
        self._failures: list[Exception] = []
        self._linker = _lend(component.engine, catalog, self._failures)
        self._running: tuple[Store, Instance] | None = self._instantiate()

    def call(self, name: str, *arguments: str | int | None) -> Any:
        """Calls the function that the WIT names so and gives what it answers with `ok`; an `err` is a `Refusal`."""
        # wasmtime takes numbers modulo 2^64, so that a lifetime of -1 would be for ever.
        if not all(0 <= argument < 1 << 64 for argument in arguments if isinstance(argument, int)):
            raise ValueError("a number of the contract has 64 bits and no sign")
        index = self._component.function(name)
        store, instance = self._running = self._running or self._instantiate()
        function = instance.get_func(store, index)
        assert function is not None, f"{name} is not a function"
        store.set_fuel(FUEL)
        self._failures.clear()
        try:
            answer = function(store, *arguments)
        except BaseException:
            # A trap leaves an instance as it stood, in the middle of something. All that counts is in the catalog
            # store, so the next call gets a new one.
            self._running = None
            raise
        # wasmtime tells `ok` from `err` where both may be of one Python type, and gives the bare payload elsewhere. All
        # errors of the contract are variants, so that there another variant is one.
        match answer:
            case Variant("ok", value):
                return value
            case Variant("err", Variant() as error) | (Variant() as error):
                raise Refusal(error) from (self._failures[-1] if self._failures else None)
        return answer

    def _instantiate(self) -> tuple[Store, Instance]:
        store = Store(self._component.engine)
        # The component is one module and the two shims that its linker puts around it. Another build may have more.
        store.set_limits(memory_size=MAX_MEMORY, memories=2, instances=8, tables=8, table_elements=4096)
        store.set_fuel(FUEL)
        return store, self._linker.instantiate(store, self._component.compiled)


@dataclass(frozen=True)
class _Datetime(Record):
    seconds: int
    nanoseconds: int


def _lend(engine: Engine, catalog: CatalogStore, failures: list[Exception]) -> Linker:
    """All that the component gets. The first argument of each is the store of wasmtime, which none of them needs."""

    def answer(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            failures.append(error)
            kind = error.kind if isinstance(error, StoreError) else "other"
            return _Err(Variant(kind, str(error)))

    linker = Linker(engine)
    with linker.root() as root:
        with root.add_instance("optoken:authority/catalog-store@0.1.0") as interface:
            interface.add_func("load", lambda _: answer(catalog.load))
            interface.add_func("swap", lambda _, expected, document: answer(catalog.swap, expected, document))
        # Any 0.2 of WASI fits these.
        with root.add_instance("wasi:random/random@0.2.0") as interface:
            interface.add_func("get-random-u64", lambda _: int.from_bytes(os.urandom(8)))
        with root.add_instance("wasi:clocks/wall-clock@0.2.0") as interface:
            interface.add_func("now", lambda _: _Datetime(*divmod(time.time_ns(), 1_000_000_000)))
    return linker


@dataclass(frozen=True)
class _Err:
    """The `err` of a result, as an answer of a function of the host.

    wasmtime tells by the Python type of an answer whether it is that of `ok`, and takes anything for that where `ok` may
    be nothing. Such an answer has no other case to be.
    """

    error: Variant


def _convert_result(self: ResultType, store: Any, answer: Any, ptr: Any) -> None:
    if isinstance(answer, _Err):
        # This object stands for the type of one answer and is made anew for the next.
        self._cases = lambda: [("err", self.err)]  # type: ignore[method-assign]
        answer = answer.error
    _convert_to_c(self, store, answer, ptr)


_convert_to_c = ResultType.convert_to_c
ResultType.convert_to_c = _convert_result  # type: ignore[method-assign]
