-- Says whose routes a request is matched against: it sets the key that scopes are found by, and nothing else.
--
-- This decides nothing. A request that names a tenant gets that tenant's routes and no others, and the agent then demands
-- that everything in the request which names a tenant agrees with them. Where this script fails, the answer is 503; where
-- even that fails, Envoy goes on without it, and there is no key (the connection manager has removed every `x-bulkhead-*`
-- of the client's before), so no scope, no routes, and no way in.
--
-- Each call into Envoy costs a microsecond: hence no more of them than this. By now the path is normalised, and the host
-- has lost its port and its trailing dot. A header that was sent twice arrives as `a,b`, which is nobody's id.

local KEY = "x-bulkhead-tenant"
local IN_PATH = "^/api/v1/tenants/([^/?]+)"

local function choose_routes(handle)
  local headers = handle:headers()
  local id = string.match(headers:get(":path") or "", IN_PATH) or headers:get("x-tenant-id")
  if id then
    headers:replace(KEY, "id:" .. id)
  else
    headers:replace(KEY, "host:" .. string.lower(headers:get(":authority") or ""))
  end
  handle:clearRouteCache()
end

function envoy_on_request(handle)
  local done, problem = pcall(choose_routes, handle)
  if not done then
    handle:logErr(problem)
    handle:respond({[":status"] = "503"}, "")
  end
end
