-- Sends the check of a request to optoken, for haproxy.cfg, and sets variables from the response:
-- txn.optoken_status, and if present, txn.optoken_id, txn.optoken_name and txn.optoken_challenge.
--
-- Decides nothing: haproxy.cfg lets a request pass if the status is 200, and rejects it otherwise.
-- Requires only HAProxy 2.5 or later with Lua, as Debian packages it.

-- haproxy.cfg sets it, as HAProxy 2.6 of Debian passes no arguments to a script. There is no default:
-- a program at a wrong address receives every token, and lets requests pass with a 200.
local url = os.getenv("OPTOKEN_VERIFY_URL")
if not url or not url:match("^https?://[^/]+/") then
    error("haproxy.lua: the address of optoken is missing. Add to the section global of haproxy.cfg, above "
        .. "lua-load-per-thread: setenv OPTOKEN_VERIFY_URL http://ADDRESS:PORT/api/v3/verify", 0)
end

-- Timeout of one attempt. HAProxy makes up to four attempts.
local TIMEOUT_MILLISECONDS = 500

local variables_by_header = {
    ["x-auth-token-id"] = "txn.optoken_id",
    ["x-auth-token-name"] = "txn.optoken_name",
    ["www-authenticate"] = "txn.optoken_challenge",
}

core.register_action("optoken", { "http-req" }, function(txn)
    -- Sends the first Authorization header unchanged, and no other header. Indices start at 0.
    local headers = {}
    local authorization = txn.http:req_get_headers()["authorization"]
    if authorization then
        headers["authorization"] = { authorization[0] }
    end

    local client = core.httpclient()
    local response = client:get({ url = url, headers = headers, timeout = TIMEOUT_MILLISECONDS })
    for name, variable in pairs(variables_by_header) do
        local values = response.headers and response.headers[name]
        if values then
            -- The challenges of several WWW-Authenticate headers make one list. Indices start at 0.
            txn:set_var(variable, table.concat(values, ", ", 0))
        end
    end
    -- Set last, so that a failure before this line leaves no status.
    txn:set_var("txn.optoken_status", response.status)
end)
