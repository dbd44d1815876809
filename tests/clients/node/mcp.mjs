// The MCP server: its health check and all tools about tokens, as a language model calls them.
//
// Usage: mcp.mjs URL, with the operator token in INFLUX_TOKEN

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

const transport = new StdioClientTransport({
    command: process.execPath,
    args: ["node_modules/@influxdata/influxdb3-mcp-server/build/index.js"],
    env: {
        PATH: process.env.PATH,
        INFLUX_DB_INSTANCE_URL: process.argv[2],
        INFLUX_DB_TOKEN: process.env.INFLUX_TOKEN,
        INFLUX_DB_PRODUCT_TYPE: "core",
    },
    stderr: "ignore",
});
const client = new Client({ name: "optoken-test", version: "1.0.0" });
await client.connect(transport);

// Returns the text of a call, and whether the server counts it as a failure.
async function call(name, args = {}) {
    const { content, isError } = await client.callTool({ name, arguments: args });
    return { text: content.map((part) => part.text).join("\n"), failed: isError ?? false };
}

const results = {
    health: await call("health_check"),
    created: await call("create_admin_token", { name: "from the model" }),
    taken: await call("create_admin_token", { name: "from the model" }),
    listed: await call("list_admin_tokens"),
    filtered: await call("list_admin_tokens", { tokenName: "model" }),
    unknown: await call("list_admin_tokens", { tokenName: "Model" }),
    resource: await call("list_resource_tokens", { orderBy: "name", orderDirection: "DESC" }),
    deleted: await call("delete_token", { token_name: "from the model" }),
    missing: await call("delete_token", { token_name: "from the model" }),
    operator: await call("delete_token", { token_name: "_admin" }),
    regenerated: await call("regenerate_operator_token"),
    afterwards: await call("list_admin_tokens"),
};
await client.close();
console.log(JSON.stringify(results));
