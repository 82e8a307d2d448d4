-- Says whose routes a request is matched against, and shows a lease where the agent has granted one.
--
-- This decides nothing. A request that names a tenant gets that tenant's routes and no others, and the agent then demands
-- that everything in the request which names a tenant agrees with them. A lease is a decision that the agent has made
-- for many requests at once: only the tenant's current route for the same class of RPCs lets a request by that shows
-- it. What is kept here is kept for one credential, and found for a request that says the same as the one it was granted
-- to, in the same bytes: the credential, the tenant, in each place that names one, and the host.
--
-- Where this script fails, the answer is 503; where even that fails, Envoy goes on without it, and there is no key (the
-- connection manager has removed every `x-bulkhead-*` of the client's before), so no scope, no routes, and no way in.
--
-- Each call into Envoy costs a microsecond: hence no more of them than this. By now the path is normalised, and the host
-- has lost its port and its trailing dot. A header that was sent twice arrives as `a,b`, which is nobody's id.

-- What may be leased: the class of each RPC, by what follows the tenant in the path of a GET, and by its gRPC path.
local OF_GET, OF_GRPC = {}, {} -- written by `ext_authz/xds/resources/filters.py`
-- Whether there was a handshake, in which a name was asked for.
local IS_TLS = false -- written by the same
local KEY = "x-bulkhead-tenant"
local IN_PATH = "^/api/v1/tenants/([^/?]+)/?([^?]*)(.*)$"
-- An item is one of its collection. What else a path or a query may hold, the agent looks at.
local ITEM = "^(%w+/)[%w_-]+$"
local PLAIN_QUERY = "^%?page_size=%d+$"
local GRANT = "^(%S+) (%d+) (%d+) (%S+) (%S+)$"
-- Credentials that are remembered: twice as many at the most, of which the older half is forgotten at once.
local MOST = 20000
-- Stands in a context's place where what was granted is a refusal, for as long as it would be repeated.
local HELD = "^held:(%d+)$"
-- What is told where there was no lease, so that the agent knows that one would be kept.
local NONE = "0"
-- Of how many grants a lease may be made, so that what is told of it stays short.
local MOST_GRANTS = 16

local newer, older, count = {}, {}, 0

local function remember(credential, known)
  if count >= MOST then
    newer, older, count = {}, newer, 0
  end
  newer[credential] = known
  count = count + 1
end

-- Return what is remembered of a credential, by class.
local function remembered(credential)
  local known = newer[credential]
  if known == nil then
    known = older[credential]
    if known ~= nil then
      older[credential] = nil
      remember(credential, known)
    end
  end
  return known
end

local function class_of(headers, path, rest, query)
  if rest == nil then
    return OF_GRPC[path]
  end
  if headers:get(":method") ~= "GET" or query ~= "" and string.find(query, PLAIN_QUERY) == nil then
    return nil
  end
  local collection = string.match(rest, ITEM)
  return OF_GET[collection and collection .. "*" or rest]
end

local function is_for(lease, key, named, host, server)
  return lease.key == key and lease.named == named and lease.host == host and lease.server == server
end

-- Return what is left of each grant that a lease is made of. They are spent in their order.
local function unspent(lease)
  local found, left = {}, lease.calls
  for number = #lease.grants, 1, -1 do
    local grant = lease.grants[number]
    local calls = math.min(grant.calls, left)
    if calls > 0 then
      table.insert(found, 1, {name = grant.name, calls = calls})
    end
    left = left - calls
  end
  return found
end

-- Say what becomes of a lease that is spent no more: of how many calls it was, and what is left of them.
local function told_of(lease)
  local told = {lease.granted, lease.ticket}
  for _, grant in ipairs(unspent(lease)) do
    table.insert(told, grant.name .. ":" .. grant.calls)
  end
  return table.concat(told, " ")
end

-- Show the lease that is good for this request; where there is none, remember what it would be good for.
local function show_lease(handle, headers, credential, class, key, named)
  local host, server = headers:get(":authority"), IS_TLS and handle:streamInfo():requestedServerName() or ""
  local known = remembered(credential)
  local lease = known and known[class]
  if lease ~= nil and is_for(lease, key, named, host, server) then
    local now = handle:timestamp()
    if lease.ends > now and lease.calls > 0 then
      lease.calls = lease.calls - 1
      headers:add("x-bulkhead-lease", lease.ticket)
      headers:add(lease.carrier, lease.carried or string.format("%d", math.ceil((lease.reset - now) / 1000)))
      return
    end
  end
  -- What was granted to another request than this one makes room, too: it is told, and no longer there.
  headers:add("x-bulkhead-unspent", lease ~= nil and lease.carried and told_of(lease) or NONE)
  if known ~= nil then
    known[class] = nil
  end
  local asked = table.concat({class, key, named or "", host, server, credential}, "\n")
  handle:streamInfo():dynamicMetadata():set("bulkhead", "asked", asked)
end

local function choose_routes(handle)
  local headers = handle:headers()
  local path, named = headers:get(":path") or "", headers:get("x-tenant-id")
  local id, rest, query = string.match(path, IN_PATH)
  local key
  if id or named then
    key = "id:" .. (id or named)
  else
    key = "host:" .. string.lower(headers:get(":authority") or "")
  end
  headers:replace(KEY, key)
  local credential = headers:get("authorization")
  local class = credential and class_of(headers, path, rest, query)
  -- What was sent twice is the agent's to refuse.
  if class and not string.find(credential, ",", 1, true) and not (named and string.find(named, ",", 1, true)) then
    show_lease(handle, headers, credential, class, key, named)
  end
  handle:clearRouteCache()
end

-- Keep what the agent has granted to the request that this answers.
local function keep_lease(handle, grant)
  local asked = handle:streamInfo():dynamicMetadata():get("bulkhead")
  local name, calls, ends, ticket, carried = string.match(grant, GRANT)
  if asked == nil or name == nil then
    return
  end
  local class, key, named, host, server, credential =
    string.match(asked.asked, "^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$")
  local known = remembered(credential)
  if known == nil then
    known = {}
    remember(credential, known)
  end
  local reset = string.match(carried, HELD)
  local lease = {
    grants = {{name = name, calls = tonumber(calls)}}, granted = tonumber(calls),
    calls = reset and math.huge or tonumber(calls), ends = tonumber(ends),
    ticket = ticket,
    carrier = reset and "x-bulkhead-retry-after" or "x-bulkhead-context", carried = not reset and carried or nil,
    reset = tonumber(reset or 0),
    key = key, named = named ~= "" and named or nil, host = host, server = server,
  }
  local before = known[class]
  -- Where several of its requests were asked about at once, all that was granted is kept, as long as all of it is good;
  -- and where one of them was refused, what others were granted is spent before.
  if before ~= nil and before.carried and before.calls > 0 and before.ends > handle:timestamp()
    and is_for(before, key, lease.named, host, server) then
    if reset then
      return
    end
    if before.ticket == ticket then
      local grants = unspent(before)
      if #grants >= MOST_GRANTS then
        return
      end
      table.insert(grants, lease.grants[1])
      lease.grants = grants
      lease.calls, lease.granted = lease.calls + before.calls, lease.granted + before.granted
      lease.ends = math.min(lease.ends, before.ends)
    end
  end
  known[class] = lease
end

function envoy_on_request(handle)
  local done, problem = pcall(choose_routes, handle)
  if not done then
    handle:logErr(problem)
    handle:respond({[":status"] = "503"}, "")
  end
end

function envoy_on_response(handle)
  local grant = handle:headers():get("x-bulkhead-grant")
  if grant ~= nil then
    local done, problem = pcall(keep_lease, handle, grant)
    if not done then
      handle:logErr(problem)
    end
  end
end
