-- Asks optoken whether a request may pass, for haproxy.cfg, and leaves what it says in variables:
-- txn.optoken_status, and where there are any, txn.optoken_id, _name and _challenge.
--
-- Decides nothing: a request may pass if the status is 200, and not if there is none.
-- Needs HAProxy 2.5 or later with Lua, which Debian's is, and nothing else.

local arguments = table.pack(...)
local url = arguments[1] or "http://127.0.0.1:8181/api/v3/verify"

-- Milliseconds, of one try. HAProxy makes up to four.
local TIMEOUT = 500

local kept = {
    ["x-auth-token-id"] = "txn.optoken_id",
    ["x-auth-token-name"] = "txn.optoken_name",
    ["www-authenticate"] = "txn.optoken_challenge",
}

core.register_action("optoken", { "http-req" }, function(txn)
    -- Only this one header, as it came, and of several the first. They are numbered from 0.
    local headers = {}
    local authorization = txn.http:req_get_headers()["authorization"]
    if authorization then
        headers["authorization"] = { authorization[0] }
    end

    local client = core.httpclient()
    local answer = client:get({ url = url, headers = headers, timeout = TIMEOUT })
    for name, variable in pairs(kept) do
        local values = answer.headers and answer.headers[name]
        if values then
            txn:set_var(variable, values[0])
        end
    end
    -- Last: whatever goes wrong before leaves no status.
    txn:set_var("txn.optoken_status", answer.status)
end)
