"""A stand-in for InfluxDB 3 Core: HTTP and Flight on one port, and a record of what arrives.

Usage: core.py RECORD, with the one accepted token in INFLUX_TOKEN

Prints its port. Appends a line of JSON to RECORD for each request, before the answer. Keeps the
lines that were written, and answers a query with their number. Ends with its standard input.

Flight is PyArrow's own server. It needs a port of its own, so the shared port looks at the first
bytes of a connection: HTTP/2 with prior knowledge goes to Flight, all else to HTTP.
"""

import asyncio
import json
import os
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow
import pyarrow.flight as flight

record_path = sys.argv[1]
token = os.environ["INFLUX_TOKEN"]
lock = threading.Lock()
databases = {"_internal": []}

VERSION = "3.10.1"


def record(**request):
    with lock, open(record_path, "a", encoding="utf-8") as file:
        file.write(json.dumps(request) + "\n")


def text(data):
    """Returns bytes as text. Bytes that are no UTF-8 are shown in hexadecimal."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "hex:" + data.hex()


def field(number, data):
    """A field of Protocol Buffers with bytes. No length here needs a second byte."""
    assert len(data) < 0x80
    return bytes([number << 3 | 2, len(data)]) + data


READ_INFO = field(1, b"type.googleapis.com/influxdata.iox.querier.v1.ReadInfo")


def write(database, lines):
    with lock:
        databases.setdefault(database, []).extend(line for line in lines.splitlines() if line)


def query(database, statement):
    """Returns the rows of a query, or `None` if there is no such database."""
    with lock:
        lines = databases.get(database)
        return None if lines is None else [{"database": database, "query": statement, "lines": len(lines)}]


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def read_body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def reply(self, status, body="", headers=()):
        data = body.encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def rows(self, database, statement, form):
        rows = query(database, statement)
        if rows is None:
            return self.reply(404, json.dumps({"error": f"query error: database not found: {database}"}))
        if form == "v1":
            series = [{"name": "m", "columns": list(rows[0]), "values": [list(rows[0].values())]}]
            body = json.dumps({"results": [{"statement_id": 0, "series": series}]})
        elif form == "pretty":
            body = "\n".join(f"| {name} | {value} |" for name, value in rows[0].items())
        elif form == "csv":
            body = ",".join(rows[0]) + "\n" + ",".join(map(str, rows[0].values())) + "\n"
        else:
            body = json.dumps(rows)
        return self.reply(200, body, [("Content-Type", "application/json")])

    def answer(self):
        body = self.read_body()
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        record(protocol="http", method=self.command, target=self.path, headers=headers, body=text(body))
        if self.headers.get_all("Authorization") != [f"Bearer {token}"]:
            return self.reply(401, '{"error": "the request was not authenticated"}')
        url = urllib.parse.urlsplit(self.path)
        options = dict(urllib.parse.parse_qsl(url.query))
        match self.command, url.path:
            case "GET" | "POST", "/ping":
                known = [("x-influxdb-version", VERSION), ("x-influxdb-build", "Core")]
                version = {"version": VERSION, "revision": "stand-in", "process_id": "0"}
                return self.reply(200, json.dumps(version), [*known, ("Content-Type", "application/json")])
            case "GET", "/health":
                return self.reply(200, "OK")
            case "GET", "/metrics":
                return self.reply(200, "# TYPE core_stand_in gauge\ncore_stand_in 1\n")
            case "POST", "/write" | "/api/v3/write_lp":
                write(options["db"], body.decode())
                return self.reply(204)
            case "POST", "/api/v2/write":
                write(options["bucket"], body.decode())
                return self.reply(204)
            case "GET" | "POST", "/query":
                options |= dict(urllib.parse.parse_qsl(body.decode()))
                return self.rows(options.get("db"), options.get("q"), "v1")
            case "GET", "/api/v3/query_sql" | "/api/v3/query_influxql":
                return self.rows(options.get("db"), options.get("q"), options.get("format"))
            case "POST", "/api/v3/query_sql" | "/api/v3/query_influxql":
                asked = json.loads(body)
                return self.rows(asked.get("db"), asked.get("q"), asked.get("format"))
            case "POST", "/api/v3/configure/database":
                write(json.loads(body)["db"], "")
                return self.reply(200)
            case "GET", "/api/v3/configure/database":
                with lock:
                    found = [{"iox::database": name} for name in sorted(databases)]
                return self.reply(200, json.dumps(found), [("Content-Type", "application/json")])
            case "DELETE", "/api/v3/configure/database":
                with lock:
                    databases.pop(options.get("db"), None)
                return self.reply(200)
        return self.reply(404, "Not found")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer


class Recorder(flight.ServerMiddlewareFactory):
    """Sees the headers of each call, before its messages."""

    def start_call(self, info, headers):
        pairs = [[name, text(value) if isinstance(value, bytes) else value] for name, values in headers.items() for value in values]
        record(protocol="flight", method=info.method.name, headers=pairs)
        if headers.get("authorization") != [f"Bearer {token}"]:
            raise flight.FlightUnauthenticatedError("the request was not authenticated")
        return Call(headers)


class Call(flight.ServerMiddleware):
    def __init__(self, headers):
        self.headers = headers


class Flight(flight.FlightServerBase):
    def table(self, database, statement):
        rows = query(database, statement)
        if rows is None:
            raise flight.FlightServerError(f"database not found: {database}")
        return pyarrow.Table.from_pylist(rows)

    def do_get(self, context, ticket):
        record(protocol="flight", method="ticket", body=text(ticket.ticket))
        if ticket.ticket.startswith(READ_INFO):
            info = ticket.ticket[len(READ_INFO) + 2 :]
            database, statement = info[2 : 2 + info[1]].decode(), "Flight SQL"
        else:
            asked = json.loads(ticket.ticket)
            names = ("database", "namespace_name", "bucket", "bucket-name")
            database = next(asked[name] for name in names if name in asked)
            statement = asked.get("sql_query")
        return flight.RecordBatchStream(self.table(database, statement))

    def get_flight_info(self, context, descriptor):
        """The database stands in a header. The ticket names it, as that of Core does."""
        record(protocol="flight", method="descriptor", body=text(descriptor.command))
        if b".CommandGetSqlInfo" in descriptor.command:
            raise NotImplementedError("there is no information about the server")
        headers = context.get_middleware("recorder").headers
        names = ("database", "bucket", "bucket-name", "iox-namespace-name")
        database = next(headers[name][0] for name in names if name in headers)
        info = field(1, database.encode()) + b"\x18\x03" + field(4, descriptor.command)
        endpoint = flight.FlightEndpoint(READ_INFO + field(2, info), [])
        schema = self.table(database, "Flight SQL").schema
        return flight.FlightInfo(schema, descriptor, [endpoint], 1, -1)

    def do_action(self, context, action):
        record(protocol="flight", method=f"action {action.type}", body=text(action.body.to_pybytes()))
        return [flight.Result(b"done")]


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def main():
    http = ThreadingHTTPServer(("127.0.0.1", 0), Http)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    flights = Flight("grpc://127.0.0.1:0", middleware={"recorder": Recorder()})

    async def connected(reader, writer):
        try:
            first = await reader.readexactly(4)
        except asyncio.IncompleteReadError:
            return writer.close()
        port = flights.port if first == b"PRI " else http.server_port
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        inner_writer.write(first)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        inner_writer.close()
        writer.close()

    shared = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(shared.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


asyncio.run(main())
