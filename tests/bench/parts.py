"""The parts of `tests/bench/run`: each starts what it measures, and returns rows of the table.

A ratio is one to `optoken-baseline` or nginx, which are measured in turns with the server. So other
load of the machine affects both.
"""

import http.client
import json
import pathlib
import re
import statistics
import subprocess
import time

import common
import instructions
from common import OPERATOR, VERIFY, ask_on, create_operator, free_ports, in_turns, processor_time, progress
from common import requests_of, resident, start, stop, wait_until, work, wrk
from report import Row

# Requests a second of the fixed rate: below half of what one core serves.
RATE = 12_000
# The most tokens of a catalog are 10,000, and some must fit.
MOST_TOKENS = 9_980


class Bench:
    """What the parts share."""

    def __init__(self, optoken, baseline, quick):
        self.optoken, self.baseline, self.quick = optoken, baseline, quick
        self.disk = common.disk_folder()
        # Nanoseconds of processor time of one verify, which the part `rates` measures.
        self.request_ns = None

    def server(self, name, *arguments, wrapper=()):
        """Starts the server on a data directory of its own. Returns its process and its port."""
        (port,) = free_ports(1)
        command = [*wrapper, self.optoken, "serve", "--http-bind", f"127.0.0.1:{port}"]
        command += ["--data-dir", self.disk / name, *arguments]
        return start(name, command, port), port

    def constant(self):
        """Starts the bare axum constant."""
        (port,) = free_ports(1)
        return start("constant", [self.baseline, "constant", f"127.0.0.1:{port}"], port), port

    def values(self, *arguments):
        """Runs a part of the baseline, and returns what it prints."""
        command = [self.baseline, *map(str, arguments)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return {name: float(value) for name, value in (line.split() for line in text.splitlines())}


def size(file):
    """The bytes of a file, which the server may remove meanwhile."""
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:
        return 0


def bearer(token):
    return f"Authorization: Bearer {token}"


def best(values):
    return max(values["server"]) / max(values["other"])


def median_ratio(values):
    return statistics.median(ours / other for ours, other in zip(values["server"], values["other"]))


def rates(bench):
    """Requests a second of a verify and of the constant, and the processor time of both."""
    rounds, seconds = (3, 1) if bench.quick else (11, 2)
    constant, constant_port = bench.constant()
    server, port = bench.server("rates")
    header = bearer(create_operator(port))
    sides = {"server": (server, port), "other": (constant, constant_port)}

    def load(side, connections, seconds):
        process, port = sides[side]
        before = processor_time(process)
        rate, text = wrk(f"http://127.0.0.1:{port}{VERIFY}", 1, connections, seconds, "-H", header)
        return rate, 1e9 * (processor_time(process) - before) / requests_of(text)

    for side in sides:
        load(side, 32, 1)
    rows = []
    found = {count: {side: [] for side in sides} for count in (1, 32, 256)}
    costs = {side: [] for side in sides}
    for number in range(rounds):
        progress(f"rates: round {number + 1} of {rounds}")
        for connections, values in found.items():
            for side in in_turns(list(sides), number):
                rate, cost = load(side, connections, seconds)
                values[side].append(rate)
                if connections == 32:
                    costs[side].append(cost)
    for (connections, values), goal in zip(found.items(), (0.95, 0.95, 0.90)):
        plural = "connection" if connections == 1 else "connections"
        note = f"best rounds {best(values):.2f}; {statistics.median(values['server']):,.0f} a second"
        what = f"verify, relative to a bare axum constant, {connections} {plural}"
        rows.append(Row(f"rate_{connections}", what, median_ratio(values), ">=", goal, "{:.3f}", note))
    ours, other = (statistics.median(costs[side]) / 1000 for side in ("server", "other"))
    bench.request_ns = 1000 * ours
    what = "processor time of a verify in the server, 32 connections"
    note = f"the constant {other:.1f} µs; lowest {min(costs['server']) / 1000:.1f} and {min(costs['other']) / 1000:.1f}"
    rows.append(Row("request_time", what, ours, None, None, "{:.1f} µs", note))
    stop(server), stop(constant)
    return rows


def tail(bench):
    """Latency at a fixed rate."""
    rounds, seconds = (3, 1) if bench.quick else (5, 3)
    constant, constant_port = bench.constant()
    server, port = bench.server("tail")
    token = create_operator(port)
    ports = {"server": port, "other": constant_port}
    found = {side: [] for side in ports}
    for number in range(rounds):
        progress(f"tail: round {number + 1} of {rounds}")
        for side in in_turns(list(ports), number):
            found[side].append(bench.values("load", f"127.0.0.1:{ports[side]}", token, RATE, 16, seconds))
    stop(server), stop(constant)
    p99 = {side: [values["p99"] for values in of_side] for side, of_side in found.items()}
    p50 = {side: statistics.median(values["p50"] for values in of_side) for side, of_side in found.items()}
    what = f"p99 of a verify at {RATE:,} requests a second, 16 connections"
    note = (
        f"the constant {statistics.median(p99['other']):,.0f} µs; best rounds {min(p99['server']):,.0f} "
        f"and {min(p99['other']):,.0f}; p50 {p50['server']:,.0f} and {p50['other']:,.0f}"
    )
    return [Row("p99", what, statistics.median(p99["server"]), None, None, "{:,.0f} µs", note)]


def h2(bench):
    """Requests a second over HTTP/2 and TLS 1.3, and those of nginx with a constant."""
    rounds, seconds = (3, 1) if bench.quick else (9, 2)
    key, certificate = work / "key.pem", work / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    (nginx_port,) = free_ports(1)
    nginx = common.nginx("nginx", nginx_port, f"""
        server {{ listen 127.0.0.1:{nginx_port} ssl http2; ssl_protocols TLSv1.3;
            ssl_certificate {certificate}; ssl_certificate_key {key};
            location / {{ default_type text/plain; return 200 "ok"; }} }}
    """)
    (port,) = free_ports(1)
    arguments = ("--tls-cert", certificate, "--tls-key", key, "--tls-minimum-version", "tls-1.3")
    server, port = bench.server("h2", *arguments)
    token_file = work / "h2-token"
    create = [bench.optoken, "create", "token", "--admin", "--host", f"https://127.0.0.1:{port}", "--tls-ca", certificate]
    text = subprocess.run(create, check=True, capture_output=True, text=True).stdout
    token_file.write_text(re.search(r"Token: (\S+)", text)[1])
    ports = {"server": port, "other": nginx_port}

    def load(side, seconds):
        command = ["h2load", "--clients=8", "--max-concurrent-streams=16", "--threads=1", f"--duration={seconds}"]
        command += ["--header", bearer(token_file.read_text()), f"https://127.0.0.1:{ports[side]}{VERIFY}"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        counts = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
        if int(counts[1]) == 0 or any(map(int, counts.groups()[1:])) or "TLSv1.3" not in text:
            raise SystemExit(f"h2load of the {side}: {text}")
        return float(re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", text)[1])

    for side in ports:
        load(side, 1)
    values = {side: [] for side in ports}
    for number in range(rounds):
        progress(f"h2: round {number + 1} of {rounds}")
        for side in in_turns(list(ports), number):
            values[side].append(load(side, seconds))
    stop(server), stop(nginx)
    note = f"best rounds {best(values):.2f}; {statistics.median(values['server']):,.0f} a second"
    what = "verify over HTTP/2 and TLS 1.3, relative to an nginx constant, 8 connections of 16 streams"
    return [Row("h2", what, median_ratio(values), ">=", 0.95, "{:.3f}", note)]


def count_instructions(bench):
    counted = instructions.count(bench.optoken, bench.disk / "instructions")
    return [
        Row("instructions", "instructions of a verify in user space (callgrind)", counted["instructions"], "<=", 24_000, "{:,.0f}"),
        Row("allocations", "allocations of a verify", counted["allocations"], "<=", 3, "{:.2f}"),
    ]


def sandbox(bench):
    """What the sandbox adds to a check."""
    values = bench.values("check", 1_000 if bench.quick else 5_000)
    note = f"{values['sandboxed']:.0f} ns, native {values['native']:.0f} ns"
    rows = [Row("sandbox", "what the sandbox adds to a check", values["added"], "<=", 330, "{:.0f} ns", note)]
    if bench.request_ns:
        share = 100 * values["added"] / bench.request_ns
        rows.append(Row("sandbox_share", "what the sandbox adds, of the processor time of a verify", share, "<=", 3.5, "{:.1f} %"))
    what = "a check in the sandbox, relative to a call of an empty component and a native digest"
    note = f"{values['empty']:.0f} ns and {values['digest']:.0f} ns"
    return [*rows, Row("sandbox_relative", what, values["relative"], None, None, "{:.2f}", note)]


def commits(bench):
    """Durable replacements of the operator token, and bare commits of SQLite."""
    rounds = 15 if bench.quick else 60
    server, port = bench.server("commits")
    progress(f"commits: {rounds} rounds")
    token = create_operator(port)
    values = bench.values("commits", rounds, bench.disk, f"127.0.0.1:{port}", token)
    stop(server)
    rows = []
    for name, where, goal in (("process", "in the process", 0.5), ("http", "over HTTP, one after the other", 0.40)):
        note = f"median {values[f'{name}_median']:,.0f} µs, a commit {values['bare_median']:,.0f} µs"
        what = f"regenerate {where}, relative to bare commits of SQLite"
        rows.append(Row(f"regenerate_{name}", what, values[f"{name}_ratio"], ">=", goal, "{:.3f}", note))
    return [*rows, *syncs(bench)]


def syncs(bench):
    """How often a regenerate waits for the disk."""
    count = 50 if bench.quick else 200
    progress(f"syncs: {count} regenerates")
    trace = work / "syncs"
    # -D makes the server, not strace, the child of this script. So strace needs no further rights.
    wrapper = ["strace", "-D", "-f", "-y", "-e", "trace=fsync,fdatasync,sync_file_range,msync", "-o", trace]
    server, port = bench.server("syncs", wrapper=wrapper)
    token, connection = create_operator(port), http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    # The checkpoint of the creation ends.
    time.sleep(0.5)
    seen, found = len(trace.read_text().splitlines()), []
    for _ in range(count):
        token = regenerate(connection, token)
        lines = trace.read_text().splitlines()
        found.append(lines[seen:])
        seen = len(lines)
    # A checkpoint and the high-water mark have a thread each, for which no command waits.
    names = {task.name: (task / "comm").read_text().strip() for task in pathlib.Path(f"/proc/{server.pid}/task").iterdir()}
    stop(server)
    waited, background = [], 0
    for lines in found:
        # A call that is interrupted has a second line, which begins otherwise.
        calls = [line.split()[0] for line in lines if re.match(r"\d+ +\w+\(", line)]
        waited.append(sum(not names.get(thread, "").startswith("optoken-") for thread in calls))
        background += len(calls) - waited[-1]
    usual = statistics.mode(waited)
    exact = sum(number == usual for number in waited)
    more = f"at most {max(waited)}, where the log begins again after a checkpoint"
    note = f"{exact} of {count}; {more}; {background / count:.2f} each in the background"
    return [Row("syncs", "syncs to disk that a regenerate waits for", usual, "==", 1, "{:d}", note)]


def regenerate(connection, token):
    status, text = ask_on(connection, "POST", f"{OPERATOR}/regenerate", token)
    return json.loads(text)["token"] if status == 201 else common.sys.exit(f"no new token: {status} {text}")


def catalog(bench):
    """Processor time of a creation among many tokens."""
    count = 5 if bench.quick else 15
    rows = []
    for tokens, title in ((1, "1 token"), (1_000, "1,000 tokens"), (MOST_TOKENS, "10,000 tokens")):
        progress(f"catalog: {title}")
        store = bench.disk / f"catalog-{tokens}.db"
        command = [bench.baseline, "catalog", store, str(tokens)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        operator = text.split()[1]
        server, port = bench.server(f"catalog-{tokens}", "--store", f"sqlite:{store}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

        def create(name):
            path, body = "/api/v3/configure/token/named_admin", {"token_name": name}
            status, text = ask_on(connection, "POST", path, operator, body)
            if status != 201:
                raise SystemExit(f"no token among {tokens}: {status} {text}")

        # The first ones read the catalog, and let the process grow.
        for number in range(4):
            create(f"first {number}")
        time.sleep(0.3)
        times, before = [], processor_time(server)
        for number in range(count):
            begun = time.perf_counter()
            create(f"new {number}")
            times.append(1000 * (time.perf_counter() - begun))
        # What follows a command, such as a checkpoint, counts.
        time.sleep(0.3)
        cost = 1000 * (processor_time(server) - before) / count
        goal = 12 if tokens == MOST_TOKENS else None
        note = f"to the response: lowest {min(times):.1f} ms, median {statistics.median(times):.1f} ms"
        what = f"processor time of a creation among {title}"
        rows.append(Row(f"create_{tokens}", what, cost, goal and "<=", goal, "{:.1f} ms", note))
        stop(server)
    return rows


def starts(bench):
    """Times of processes: the server to its first response, and commands to their end."""
    count = 5 if bench.quick else 20
    server, port = bench.server("starts")
    token = create_operator(port)
    host = ("--host", f"http://127.0.0.1:{port}")
    environment = {"PATH": common.PATH, "HOME": str(work), "INFLUXDB3_AUTH_TOKEN": token}

    def command(*arguments):
        begun = time.perf_counter()
        subprocess.run([bench.optoken, *arguments], check=True, capture_output=True, env=environment)
        return time.perf_counter() - begun

    def first_answer(number):
        (port,) = free_ports(1)
        log = open(work / "start.log", "wb")
        serve = ["serve", "--http-bind", f"127.0.0.1:{port}", "--data-dir", bench.disk / f"start-{number}"]
        begun = time.perf_counter()
        process = subprocess.Popen([bench.optoken, *serve], stdout=log, stderr=log, env=environment)
        common.processes.append(process)
        while True:
            try:
                status = common.ask(port, "GET", "/health")[0]
                break
            except ConnectionRefusedError:
                if process.poll() is not None or time.perf_counter() - begun > 30:
                    raise SystemExit(f"the server does not start: {(work / 'start.log').read_text()}")
                time.sleep(0.0002)
        taken = time.perf_counter() - begun
        log.close()
        if status != 401:
            raise SystemExit(f"the server answers {status} without a token")
        stop(process)
        return taken

    found = {
        "start": (first_answer, "from start to the first response", 20),
        "offline": (
            lambda number: command("create", "token", "--admin", "--offline", "--output-file", work / f"offline-{number}"),
            "`create token --admin --offline`",
            15,
        ),
        "show": (lambda _: command("show", "tokens", *host), "`show tokens`", None),
        "help": (lambda _: command("--help"), "`--help`", None),
    }
    times = {key: [] for key in found}
    for number in range(-1, count):
        progress(f"starts: round {number + 1} of {count}")
        for key, (measure, _, _) in found.items():
            taken = 1000 * measure(number)
            # The first reads the program from the disk.
            if number >= 0:
                times[key].append(taken)
    stop(server)
    return [
        Row(key, what, statistics.median(times[key]), goal and "<=", goal, "{:.1f} ms", f"lowest {min(times[key]):.1f} ms")
        for key, (_, what, goal) in found.items()
    ]


def memory(bench):
    """Resident memory after verifies and regenerates, and the size of the data directory then."""
    verifies, rotations = (100_000, 1_000) if bench.quick else (1_000_000, 10_000)
    server, port = bench.server("memory")
    token = create_operator(port)
    url, at_start = f"http://127.0.0.1:{port}{VERIFY}", resident(server.pid)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    largest = 0

    def verify(until):
        done = 0
        while done < until:
            done += requests_of(wrk(url, 1, 64, 1, "-H", bearer(token))[1])
            progress(f"memory: {done:,} verifies of {until:,}")

    def rotate(count):
        nonlocal token, largest
        for number in range(count):
            token = regenerate(connection, token)
            if number % 20 == 0:
                largest = max(largest, sum(map(size, (bench.disk / "memory").rglob("*"))))
        progress(f"memory: {count:,} regenerates")

    verify(verifies // 10)
    rotate(rotations // 10)
    warm = resident(server.pid)
    verify(verifies)
    verified = resident(server.pid)
    rotate(rotations)
    rotated = resident(server.pid)
    stop(server)
    most = max(verified, rotated)
    return [
        Row("memory_start", "resident memory at the start", at_start / 1024, "<=", 30, "{:.1f} MiB"),
        Row("memory_verified", f"resident memory after {verifies:,} verifies", verified / 1024, "<=", 30, "{:.1f} MiB"),
        Row("memory_rotated", f"resident memory after {rotations:,} regenerates more", rotated / 1024, "<=", 30, "{:.1f} MiB"),
        Row("memory_growth", "growth of resident memory since a tenth of these", max(0, most - warm) / 1024, "<=", 1, "{:.1f} MiB"),
        Row("disk", "largest data directory of one token meanwhile", largest / (1 << 20), "<=", 1, "{:.2f} MiB"),
    ]


# In the order of the table, each with the programs that it runs and their packages.
PARTS = {
    "rates": (rates, {"wrk": "wrk"}),
    "h2": (h2, {"h2load": "nghttp2-client", "nginx": "nginx", "openssl": "openssl"}),
    "tail": (tail, {}),
    "instructions": (count_instructions, instructions.NEEDS),
    "sandbox": (sandbox, {}),
    "commits": (commits, {"strace": "strace"}),
    "catalog": (catalog, {}),
    "starts": (starts, {}),
    "memory": (memory, {"wrk": "wrk"}),
}
