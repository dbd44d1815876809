-- Sends the check of a request to optoken, for haproxy.cfg, and sets variables from the response:
-- txn.optoken_status, and if present, txn.optoken_id, txn.optoken_name, txn.optoken_challenge and
-- txn.optoken_basic.
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
    ["x-auth-token-id"] = { "txn.optoken_id" },
    ["x-auth-token-name"] = { "txn.optoken_name" },
    -- The second one is the scheme Basic, for clients that wait for it.
    ["www-authenticate"] = { "txn.optoken_challenge", "txn.optoken_basic" },
}

-- Only programs are offered the scheme Basic. These show optoken a browser.
local passed_headers = { "authorization", "user-agent", "origin", "sec-fetch-site" }

core.register_action("optoken", { "http-req" }, function(txn)
    -- Sends the first header of each of these names unchanged, and no other. Indices start at 0.
    local received = txn.http:req_get_headers()
    local headers = {}
    -- For the log of optoken. A client of a Unix socket has no address.
    local address = txn.f:src()
    if address then
        headers["x-forwarded-for"] = { address }
    end
    -- The request as HAProxy passes it on, for tokens with permissions. Several hosts are none.
    headers["x-original-method"] = { txn.f:method() }
    headers["x-original-uri"] = { txn.f:url() }
    if received.host and received.host[0] and not received.host[1] then
        headers["x-original-host"] = { received.host[0] }
    end
    for _, name in ipairs(passed_headers) do
        if received[name] then
            headers[name] = { received[name][0] }
        end
    end

    local client = core.httpclient()
    local response = client:get({ url = url, headers = headers, timeout = TIMEOUT_MILLISECONDS })
    for name, variables in pairs(variables_by_header) do
        local values = response.headers and response.headers[name]
        for index, variable in ipairs(variables) do
            if values and values[index - 1] then
                txn:set_var(variable, values[index - 1])
            end
        end
    end
    -- Set last, so that a failure before this line leaves no status.
    txn:set_var("txn.optoken_status", response.status)
end)
