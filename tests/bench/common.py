"""What the benchmarks in Python share: programs, processes, loads and the name of the machine.

However a script ends, the processes that it started end, and its folders are removed.
"""

import atexit
import glob
import http.client
import json
import math
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# cargo resolves a relative path in the same way, as it runs there.
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
OPERATOR = "/api/v3/configure/token/admin"
VERIFY = "/api/v3/verify"

# Where Debian has the programs that only root needs.
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin"

processes = []
work = pathlib.Path(tempfile.mkdtemp(prefix="optoken-bench-"))
# PostgreSQL refuses to run as root, and its user must reach its files.
work.chmod(0o755)
folders = [work]


def clean_up():
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


atexit.register(clean_up)
# By default this signal ends the process at once.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))


def run(main):
    """Runs a benchmark. A failure of a program ends it with the output of that program."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("ended by SIGINT")
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        sys.exit(f"{command} fails ({error.returncode}):\n{error.stdout or ''}{error.stderr or ''}")


def disk_folder():
    """Makes a folder beside the builds. /tmp may be memory, where a sync costs nothing."""
    TARGET.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-", dir=TARGET)).resolve()
    folders.append(folder)
    return folder


def progress(text):
    print(text, file=sys.stderr, flush=True)


def find(name):
    """Returns the path of a program, or nothing."""
    return shutil.which(name, path=PATH)


def program(name, package):
    """The same, or the end of the script with the command that installs the package."""
    return find(name) or sys.exit(f"there is no {name}; install it with: apt-get install {package}")


def require(needs, otherwise=""):
    """Ends with the command that installs what is missing; `needs` has the package of each program."""
    missing = {name: package for name, package in needs.items() if not find(name)}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        sys.exit(f"missing: {', '.join(missing)}; install with: apt-get install {packages}{otherwise}")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def wait_until(what, holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def start(name, command, port, variables=(), seconds=60):
    """Starts a server, and returns its process when it listens."""
    log = work / f"{name}.log"
    with open(log, "wb") as file:
        environment = {"PATH": os.environ["PATH"], "HOME": str(work), **dict(variables)}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
    processes.append(process)

    def is_up():
        if process.poll() is not None:
            sys.exit(f"{name} ends ({process.returncode}):\n{log.read_text(errors='replace')[-2000:]}")
        return listens(port)

    wait_until(f"{name} listens on port {port}", is_up, seconds)
    return process


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    processes.remove(process)


def nginx(name, port, block):
    """Starts nginx with these directives in its block `http`."""
    home = work / name
    home.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    paths = " ".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    # The default of Debian is a worker for each processor.
    text = f"""
        daemon off; {user} worker_processes auto; worker_rlimit_nofile 8192; pid nginx.pid;
        events {{ worker_connections 4096; }}
        http {{ access_log off; keepalive_requests 1000000; {paths} {block} }}
    """
    (home / "nginx.conf").write_text(text)
    command = [program("nginx", "nginx"), "-e", "stderr", "-p", home, "-c", home / "nginx.conf"]
    return start(name, command, port)


def ask(port, method, path, token=None, body=None, headers=()):
    """Sends one request, and returns its status and the text of its response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        return ask_on(connection, method, path, token, body, headers)
    finally:
        connection.close()


def ask_on(connection, method, path, token=None, body=None, headers=()):
    """The same on an open connection."""
    headers = dict(headers) | ({"Authorization": f"Bearer {token}"} if token else {})
    if isinstance(body, dict):
        body, headers = json.dumps(body), headers | {"Content-Type": "application/json"}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


def create_operator(port):
    status, text = ask(port, "POST", OPERATOR)
    return json.loads(text)["token"] if status == 201 else sys.exit(f"no operator token: {status} {text}")


def wrk(url, threads, connections, seconds, *arguments):
    """Loads a server, and returns the requests a second and the text of wrk."""
    command = [program("wrk", "wrk"), f"-t{threads}", f"-c{connections}", f"-d{seconds}s", *arguments, url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit(f"{url}: {text}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]), text


def requests_of(text):
    """The number of requests in the text of wrk."""
    return int(re.search(r"(\d+) requests in", text)[1])


def processor_time(process):
    """Seconds that the threads of a process have run."""
    total = 0
    for thread in glob.glob(f"/proc/{process.pid}/task/*/schedstat"):
        try:
            total += int(pathlib.Path(thread).read_text().split()[0])
        except FileNotFoundError:
            pass
    return total / 1e9


def resident(*roots):
    """Resident memory of processes and their children, in KiB."""
    wanted = set(roots)
    for root in roots:
        children = pathlib.Path(f"/proc/{root}/task/{root}/children").read_text()
        wanted |= {int(child) for child in children.split()}
    sizes = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in wanted]
    return sum(int(re.search(r"VmRSS:\s+(\d+)", size)[1]) for size in sizes)


def relative(values, base):
    ratios = [value / of_base for value, of_base in zip(values, base)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def percentile(times, share):
    """A part of sorted values."""
    return times[min(len(times) - 1, math.ceil(share * len(times)) - 1)]


def in_turns(items, number):
    """The items, each time from one place later: a machine that slows down must not favour the first."""
    first = number % len(items)
    return items[first:] + items[:first]


def processor():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return model[1] if model else platform.machine()


def machine():
    return f"On {processor()}, {os.cpu_count()} cores, {time.strftime('%F')}"
