"""Counts the instructions and allocations of a verify with callgrind."""

import os
import pathlib
import re
import socket
import subprocess

import common
from common import VERIFY, create_operator, free_ports, progress, start, stop

NEEDS = {"valgrind": "valgrind", "callgrind_control": "valgrind"}
WARM_UP = 300
REQUESTS = 2_000
# What the program calls of the C library to get memory.
ALLOCATORS = {"malloc", "calloc", "realloc", "aligned_alloc", "memalign", "posix_memalign"}


def count(optoken, data, requests=REQUESTS):
    """Returns both, for one request of many on one connection."""
    progress(f"instructions: {requests:,} requests under callgrind")
    (port,) = free_ports(1)
    out = common.work / "callgrind.out"
    # The machine code of the component is loaded, so callgrind must notice code that changes.
    command = [common.program("valgrind", "valgrind"), "--tool=callgrind", "--smc-check=all-non-file"]
    command += [f"--callgrind-out-file={out}", optoken, "serve", "--http-bind", f"127.0.0.1:{port}"]
    # Under callgrind all is slow: an hour without a read of the store, and none within the count.
    command += ["--data-dir", data, "--poll-interval", "1h", "--max-staleness", "14400"]
    # callgrind counts `rep stosb` and `rep movsb` once for each byte. Above these sizes the C
    # library uses them; below, it uses the same code on every processor.
    limits = ":".join(f"glibc.cpu.x86_rep_{name}_threshold={1 << 30}" for name in ("stosb", "movsb"))
    server = start("callgrind", command, port, {"GLIBC_TUNABLES": limits}, seconds=300)
    token = create_operator(port)
    request = f"GET {VERIFY} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        send(connection, request, WARM_UP)
        control("--zero", server.pid)
        send(connection, request, requests)
        control("--dump", server.pid)
    stop(server)
    # The dump at the end has a name without a number.
    dump = sorted(common.work.glob("callgrind.out.*"))
    if len(dump) != 1:
        raise SystemExit(f"callgrind leaves {len(dump)} dumps in place of one")
    total, allocations = read(dump[0].read_text())
    return {"instructions": total / requests, "allocations": allocations / requests}


def send(connection, request, count):
    for _ in range(count):
        connection.sendall(request)
        response = b""
        while b"\r\n\r\n" not in response:
            part = connection.recv(65536)
            if not part:
                raise SystemExit("the server closes the connection under callgrind")
            response += part
        if not response.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"the server answers under callgrind: {response!r}")


def control(action, pid):
    command = [common.program("callgrind_control", "valgrind"), action, str(pid)]
    # Both sides look for their pipe in one directory.
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    subprocess.run(command, check=True, capture_output=True, text=True, env=environment)


def read(text):
    """Returns the instructions of a dump, and the calls of an allocator from outside of the C library."""
    total = int(re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)[1])
    names, objects, calls = {}, {}, 0
    called, inside, caller = None, False, None
    for line in text.splitlines():
        # `key=(number) name`, and without the name from the second time on.
        found = re.match(r"(c?fn|c?ob|calls)=(?:\((\d+)\)(?: (.*))?|(\d+))", line)
        if not found:
            continue
        key, number, name, times = found.groups()
        known = names if key.endswith("fn") else objects
        if name:
            known[number] = name
        if key == "fn":
            caller = known[number]
        elif key == "cfn":
            called = known[number]
        elif key == "calls" and plain(called) in ALLOCATORS and plain(caller) not in ALLOCATORS:
            calls += int(times)
    return total, calls


def plain(name):
    """The name of a function without its version and the mark of recursion."""
    return re.split("['@]", name or "")[0]
