#!lua name=bulkhead
-- One fixed window a minute, by the server's clock: a tenant's budget is the same for all who count in it.

local MINUTE_MS = 60000
-- A window is never asked for again once it is over. Nothing hangs on when exactly it goes.
local SLACK_MS = 1000
-- Envoy asks another worker where one is slow to answer, and gives up on both a quarter of a second after it began.
local ASKED_TWICE_WITHIN_MS = 1000

-- Take `cost` out of this minute's `limit`, or nothing at all. A request that has taken it does not take it again.
-- Answers in one line: whether it was taken (1 or 0), what remains, and how many milliseconds the minute has left.
local function take_minute(keys, args)
  local limit, cost = tonumber(args[1]), tonumber(args[2])
  local time = server.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local minute = math.floor(now_ms / MINUTE_MS)
  local ends_ms = (minute + 1) * MINUTE_MS
  local key = string.format('%s:%d', keys[1], minute)
  local used = tonumber(server.call('GET', key) or '0')
  local taken = 0
  if args[3] ~= '' and server.call('EXISTS', keys[2]) == 1 then
    taken = 1
  elseif used + cost <= limit then
    used = server.call('INCRBY', key, cost)
    server.call('PEXPIREAT', key, string.format('%d', ends_ms + SLACK_MS))
    if args[3] ~= '' then
      server.call('SET', keys[2], '', 'PX', ASKED_TWICE_WITHIN_MS)
    end
    taken = 1
  end
  return server.status_reply(string.format('%d %d %d', taken, math.max(limit - used, 0), ends_ms - now_ms))
end

-- It goes on where memory is short: what fills it, tenants' caches, gives way (`control_plane/cache/cache.lua`).
server.register_function{function_name = 'take_minute', callback = take_minute, flags = {'allow-oom'}}
