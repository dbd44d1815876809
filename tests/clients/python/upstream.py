"""The client library on one database, and a driver of Flight SQL: a write, and queries.

Usage: upstream.py URL DATABASE, with the token in INFLUX_TOKEN
"""

import json
import os
import sys
import urllib.parse

import adbc_driver_flightsql
import pyarrow
from adbc_driver_flightsql import DatabaseOptions
from adbc_driver_manager import AdbcConnection, AdbcStatement
from influxdb_client_3 import InfluxDBClient3, SYNCHRONOUS, write_client_options

host, database = sys.argv[1:]
token = os.environ["INFLUX_TOKEN"]


def outcome(call):
    """Returns the result of a call, or the type and the text of its failure."""
    try:
        return {"result": call()}
    except Exception as error:  # The types differ between releases.
        return {"error": type(error).__name__, "text": str(error)}


def flight_sql():
    """A query of the driver of Flight SQL, which is one in Go. It names its database in a header."""
    options = {
        DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}",
        f"{DatabaseOptions.RPC_CALL_HEADER_PREFIX.value}database": database,
    }
    with adbc_driver_flightsql.connect(f"grpc://{urllib.parse.urlsplit(host).netloc}", options) as opened:
        with AdbcConnection(opened) as connection, AdbcStatement(connection) as statement:
            statement.set_sql_query("select 1")
            stream, _ = statement.execute_query()
            return pyarrow.RecordBatchReader.from_stream(stream).read_all().to_pylist()


options = write_client_options(write_options=SYNCHRONOUS)
client = InfluxDBClient3(host=host, database=database, token=token, write_client_options=options)
line = "m,host=python value=1 1700000000000000000"
results = {
    "version": outcome(client.get_server_version),
    "write": outcome(lambda: client.write(line)),
    "sql": outcome(lambda: client.query("select * from m").to_pylist()),
    "influxql": outcome(lambda: client.query("select * from m", language="influxql").to_pylist()),
    "flightSql": outcome(flight_sql),
}
print(json.dumps(results))

# The output is complete. Threads of Arrow can abort the interpreter while it ends.
sys.stdout.flush()
os._exit(0)
