// The client library: what it reads of a server without a database.
//
// Usage: client.mjs URL, with the token in INFLUX_TOKEN

import { InfluxDBClient } from "@influxdata/influxdb3-client";

const host = process.argv[2];
const token = process.env.INFLUX_TOKEN;

// Returns the result of a call, or how its failure begins.
async function outcome(call) {
    try {
        return { result: await call() };
    } catch (error) {
        return { error: error.message, status: error.statusCode ?? error.code ?? null };
    }
}

async function version(options) {
    const client = new InfluxDBClient({ host, ...options });
    const found = await outcome(() => client.getServerVersion());
    await client.close();
    return found;
}

async function query(options) {
    const client = new InfluxDBClient({ host, ...options });
    const found = await outcome(async () => {
        for await (const row of client.query("select * from system.tokens", "_internal")) {
            return row;
        }
        return null;
    });
    await client.close();
    return found;
}

console.log(
    JSON.stringify({
        bearer: await version({ token, authScheme: "Bearer" }),
        token: await version({ token, authScheme: "Token" }),
        default: await version({ token }),
        wrong: await version({ token: "apiv3_wrong" }),
        query: await query({ token }),
        wrongQuery: await query({ token: "apiv3_wrong" }),
    }),
);
