// The client library on one database: a write, and queries through Flight.
//
// Usage: upstream.mjs URL DATABASE, with the token in INFLUX_TOKEN

import { InfluxDBClient, setLogger } from "@influxdata/influxdb3-client";

// It logs each failure, which the result has, too.
setLogger({ error() {}, warn() {} });

const [host, database] = process.argv.slice(2);
const client = new InfluxDBClient({ host, database, token: process.env.INFLUX_TOKEN });

// Returns the result of a call, or how its failure begins.
async function outcome(call) {
    try {
        return { result: await call() };
    } catch (error) {
        return { error: error.message, status: error.statusCode ?? error.code ?? null };
    }
}

async function query(options) {
    const rows = [];
    for await (const row of client.query("select * from m", database, options)) {
        rows.push(row);
    }
    return rows;
}

const results = {
    version: await outcome(() => client.getServerVersion()),
    write: await outcome(() => client.write("m,host=node value=1 1700000000000000000")),
    sql: await outcome(() => query({ type: "sql" })),
    influxql: await outcome(() => query({ type: "influxql" })),
};
await client.close();
// The number of lines is a 64-bit integer.
console.log(JSON.stringify(results, (_, value) => (typeof value === "bigint" ? Number(value) : value)));
