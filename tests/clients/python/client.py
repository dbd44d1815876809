"""The client library: what it reads of a server without a database, and the file of a query.

Usage: client.py URL, with the token in INFLUX_TOKEN
"""

import io
import json
import os
import sys

import pyarrow.parquet
import urllib3
from influxdb_client_3 import InfluxDBClient3

host = sys.argv[1]
token = os.environ["INFLUX_TOKEN"]


def outcome(call):
    """Returns the result of a call, or the type and the text of its failure."""
    try:
        return {"result": call()}
    except Exception as error:  # The types differ between releases.
        return {"error": type(error).__name__, "text": str(error)}


def version(**options):
    with InfluxDBClient3(host=host, database="_internal", **options) as client:
        return outcome(client.get_server_version)


def query(**options):
    with InfluxDBClient3(host=host, database="_internal", **options) as client:
        return outcome(lambda: client.query("select * from system.tokens").to_pylist())


def parquet(sql):
    """Returns the types and the rows of a query in the format parquet, as Arrow reads them."""
    response = urllib3.request(
        "POST",
        f"{host}/api/v3/query_sql",
        json={"db": "_internal", "q": sql, "format": "parquet"},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert response.status == 200, response.data
    table = pyarrow.parquet.read_table(io.BytesIO(response.data))
    return {
        "types": {field.name: str(field.type) for field in table.schema},
        "rows": json.loads(json.dumps(table.to_pylist(), default=lambda value: value.isoformat())),
    }


print(
    json.dumps(
        {
            "bearer": version(token=token),
            "scheme": version(token=token, auth_scheme="Token"),
            "wrong": version(token="apiv3_wrong"),
            "query": query(token=token),
            "wrongQuery": query(token="apiv3_wrong"),
            "tokens": parquet("select * from system.tokens"),
            "shapes": parquet(
                "select count(*) as n, avg(token_id) as a, max(name) as name, null as e from system.tokens where token_id < 3"
            ),
            "many": parquet(
                "select name, expiry from system.tokens where token_id in (1, 2) order by expiry desc"
            ),
            "none": parquet("select name, expiry from system.tokens where token_id > 1000"),
        }
    )
)

# The output is complete. Threads of Arrow can abort the interpreter while it ends.
sys.stdout.flush()
os._exit(0)
