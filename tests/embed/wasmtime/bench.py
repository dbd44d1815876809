"""Measures how fast stock wasmtime checks a token: with a process for each call, and with an HTTP
request for each call. Prints lines of JSON.

Usage: python bench.py WASMTIME COMPONENTS
  WASMTIME    the program
  COMPONENTS  the directory of optoken-cli.wasm and optoken-http.wasm
"""

import http.client
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

DURATION_SECONDS = 2.0


def measure(call: Callable[[], Any]) -> float:
    """Returns the number of consecutive calls per second."""
    start = perf_counter()
    calls = 0
    while (elapsed := perf_counter() - start) < DURATION_SECONDS:
        call()
        calls += 1
    return calls / elapsed


def print_result(host: str, authenticate: float, load: float) -> None:
    result = {
        "host": host,
        "authenticate_per_second": round(authenticate),
        # The time of a call includes its instance, as each call has its own.
        "instantiate_microseconds": None,
        "load_milliseconds": round(load * 1e3),
    }
    print(json.dumps(result))


def main() -> None:
    wasmtime, components = sys.argv[1:]
    with tempfile.TemporaryDirectory() as work:
        data = Path(work, "data")
        data.mkdir()
        directory = ["--dir", f"{data}::/data"]

        def compiled(name: str) -> tuple[str, float]:
            start = perf_counter()
            cwasm = str(Path(work, f"{name}.cwasm"))
            subprocess.run([wasmtime, "compile", "-o", cwasm, f"{components}/{name}.wasm"], check=True)
            return cwasm, perf_counter() - start

        cli, load = compiled("optoken-cli")
        command = [wasmtime, "run", "--allow-precompiled", *directory, cli, "--json"]
        created = subprocess.run([*command, "create"], check=True, capture_output=True)
        secret: str = json.loads(created.stdout)["ok"]["secret"]

        def authenticate() -> None:
            subprocess.run([*command, "authenticate"], check=True, capture_output=True, input=secret.encode())

        print_result("wasmtime run", measure(authenticate), load)

        component, load = compiled("optoken-http")
        serve = [wasmtime, "serve", "--allow-precompiled", "-Scli", "--addr", "127.0.0.1:0", *directory, component]
        with subprocess.Popen(serve, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
            try:
                assert server.stderr
                address = next(
                    found[1] for line in server.stderr if (found := re.search(r"Serving HTTP on http://([^/]+)/", line))
                )
                connection = http.client.HTTPConnection(address)

                def verify() -> None:
                    connection.request("GET", "/api/v3/verify", headers={"Authorization": f"Bearer {secret}"})
                    response = connection.getresponse()
                    response.read()
                    assert response.status == 200, response.status

                print_result("wasmtime serve", measure(verify), load)
            finally:
                server.kill()


if __name__ == "__main__":
    main()
