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
-- To read a header costs a fifth of a microsecond, to set or add one, one and a half. By now the path is normalised, and the
-- host has lost its port and its trailing dot. A header that was sent twice arrives as `a,b`, which is nobody's id.

-- What may be leased: the class of each RPC, by what follows the tenant in the path of a GET, and by its gRPC path.
local OF_GET, OF_GRPC = {}, {} -- written by `ext_authz/xds/resources/filters.py`
-- Whether there was a handshake, in which a name was asked for.
local IS_TLS = false -- written by the same
local KEY = "x-bulkhead-tenant"
local TENANTS = "/api/v1/tenants/"
-- An item is one of its collection. What else a path or a query may hold, the agent looks at.
local ITEM = "^(%w+/)[%w_-]+$"
local PLAIN_QUERY = "^%?page_size=%d+$"
local GRANT = "^(%S+) (%d+) (%d+) (%S+) (%S+)$"
-- Credentials that are remembered: twice as many at the most, of which the older half is forgotten at once.
local MOST = 20000
-- Stands in a context's place where what was granted is a refusal, for as long as it would be repeated.
local HELD = "^held:(%d+)$"
-- Stands there where it is the strangers' answer: that is Envoy's own to whoever asks for a tenant that is not there.
local REFUSED, NOBODYS = "refused", "none:"
-- What is told where there was no lease, so that the agent knows that one would be kept.
local NONE = "0"
-- Of how many grants a lease may be made, so that what is told of it stays short.
local MOST_GRANTS = 16
-- A lease of so many calls is renewed when an eighth of them is left, or of its time a tenth.
local WORTH_RENEWING = 32
local RENEWED_AT = 8
local RENEWED_BEFORE_MS = 100

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

-- Return the id of the tenant that a path names, what follows it, and the query: nothing where it names none.
local function read_path(path)
  local first = #TENANTS + 1
  if string.sub(path, 1, first - 1) ~= TENANTS then
    return nil
  end
  local mark = string.find(path, "?", first, true) or #path + 1
  local slash = math.min(string.find(path, "/", first, true) or mark, mark)
  if slash > first then
    return string.sub(path, first, slash - 1), string.sub(path, slash + 1, mark - 1), string.sub(path, mark)
  end
end

local function class_of(headers, path, rest, query)
  if rest == nil then
    return OF_GRPC[path]
  end
  if headers:get(":method") ~= "GET" or query ~= "" and string.find(query, PLAIN_QUERY) == nil then
    return nil
  end
  return OF_GET[rest] or OF_GET[(string.match(rest, ITEM) or "") .. "*"]
end

local function is_twice(value)
  return value ~= nil and string.find(value, ",", 1, true) ~= nil
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

-- Note what is to be told of a lease up to now, of which so many calls are still to be spent. Return all that is told with
-- it: what is left of a lease of another epoch is worth nothing.
local function note(known, class, lease, calls, now)
  local aside = known.aside[class]
  if aside == nil or aside.ticket ~= lease.ticket then
    aside = {ticket = lease.ticket, granted = 0, lasted = 0, grants = {}}
    known.aside[class] = aside
  end
  local up_to = math.min(now, lease.ends)
  aside.granted = aside.granted + lease.granted - calls
  aside.lasted = aside.lasted + math.max(up_to - lease.since, 0)
  lease.granted, lease.since = calls, up_to
  return aside
end

-- Spend no more of a lease, and remember what is left of it until it is told.
local function put_aside(known, class, lease, now)
  local aside = note(known, class, lease, 0, now)
  for _, grant in ipairs(unspent(lease)) do
    if #aside.grants < MOST_GRANTS then
      table.insert(aside.grants, grant)
    end
  end
  known.leases[class] = nil
end

-- Say, once, what became of leases: of how many calls they were, for how many milliseconds, and what is left of those that
-- are spent no more.
local function tell(known, class)
  local aside = known and known.aside[class]
  if aside == nil then
    return NONE
  end
  known.aside[class] = nil
  local told = {aside.granted, aside.lasted, aside.ticket}
  for _, grant in ipairs(aside.grants) do
    table.insert(told, grant.name .. ":" .. grant.calls)
  end
  return table.concat(told, " ")
end

-- Whether a lease is to be renewed before it is used up: by one request, so that not all that come meanwhile have to ask.
local function is_for_renewal(lease, now)
  if not lease.carried or lease.is_renewed or lease.granted < WORTH_RENEWING then
    return false
  end
  return lease.calls * RENEWED_AT <= lease.granted or lease.ends - now <= RENEWED_BEFORE_MS
end

-- Show the lease that is good for this request; where there is none, remember what it would be good for. Return whether a
-- stranger is refused as a moment ago.
local function show_lease(handle, headers, credential, class, key, named)
  local host, server = headers:get(":authority"), IS_TLS and handle:streamInfo():requestedServerName() or ""
  local known = remembered(credential)
  local lease = known and known.leases[class]
  local now = lease and handle:timestamp()
  local is_good = lease and is_for(lease, key, named, host, server) and lease.ends > now and lease.calls > 0
  -- What was sent twice is the agent's to refuse: none of it was ever granted a lease, and it touches nobody's.
  if not is_good and (is_twice(credential) or is_twice(named)) then
    return
  end
  if lease ~= nil then
    if is_good then
      if lease.repeats then
        lease.repeats = lease.repeats + 1
        return true
      elseif not is_for_renewal(lease, now) then
        lease.calls = lease.calls - 1
        headers:add("x-bulkhead-lease", lease.ticket)
        headers:add(lease.carrier, lease.carried or string.format("%d", math.ceil((lease.reset - now) / 1000)))
        return
      end
      lease.is_renewed = true
      note(known, class, lease, lease.calls, now)
    elseif lease.carried then
      -- What was granted to another request than this one makes room, too.
      put_aside(known, class, lease, now)
    else
      if is_for(lease, key, named, host, server) and (lease.repeats or 0) > 0 then
        headers:add("x-bulkhead-repeated", string.format("%d", lease.repeats))
      end
      known.leases[class] = nil
    end
  end
  headers:add("x-bulkhead-unspent", tell(known, class))
  local asked = table.concat({class, key, named or "", host, server, credential}, "\n")
  handle:streamInfo():dynamicMetadata():set("bulkhead", "asked", asked)
end

local function choose_routes(handle)
  local headers = handle:headers()
  local path, named = headers:get(":path") or "", headers:get("x-tenant-id")
  local id, rest, query = read_path(path)
  local key
  if id or named then
    key = "id:" .. (id or named)
  else
    key = "host:" .. string.lower(headers:get(":authority") or "")
  end
  headers:replace(KEY, key)
  local credential = headers:get("authorization")
  local class = credential and class_of(headers, path, rest, query)
  if class and show_lease(handle, headers, credential, class, key, named) then
    headers:replace(KEY, NOBODYS)
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
    known = {leases = {}, aside = {}}
    remember(credential, known)
  end
  local now, reset = handle:timestamp(), string.match(carried, HELD)
  local is_refusal = reset ~= nil or carried == REFUSED
  local lease = {
    grants = {{name = name, calls = tonumber(calls)}}, granted = tonumber(calls),
    calls = is_refusal and math.huge or tonumber(calls), ends = tonumber(ends),
    since = now, ticket = ticket, repeats = carried == REFUSED and 0 or nil,
    carrier = reset and "x-bulkhead-retry-after" or "x-bulkhead-context", carried = not is_refusal and carried or nil,
    reset = tonumber(reset or 0),
    key = key, named = named ~= "" and named or nil, host = host, server = server,
  }
  local before = known.leases[class]
  if before ~= nil and before.carried then
    local is_good = before.calls > 0 and before.ends > now and is_for(before, key, lease.named, host, server)
    if is_good and is_refusal then
      -- Where one of several requests was refused, what others were granted is spent before.
      return
    elseif is_good and before.ticket == ticket and not before.is_renewed and #before.grants < MOST_GRANTS then
      -- Where several were asked about at once, all that was granted is kept, as long as all of it is good.
      lease.grants = unspent(before)
      table.insert(lease.grants, {name = name, calls = tonumber(calls)})
      lease.calls, lease.granted = lease.calls + before.calls, lease.granted + before.granted
      lease.since, lease.ends = before.since, math.min(lease.ends, before.ends)
    else
      put_aside(known, class, before, now)
    end
  elseif before ~= nil and before.repeats and is_for(before, key, lease.named, host, server) then
    -- Of several that were asked about at once, each was refused.
    lease.repeats = lease.repeats and before.repeats
  end
  known.leases[class] = lease
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
