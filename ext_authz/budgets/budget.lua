#!lua name=bulkhead_budgets
-- A tenant's calls, counted in all of its windows at once, by the server's clock: a budget is the same for all who count
-- in it. What a window has used is kept as 'begin end used', in milliseconds since 1970.

-- A window is never asked for again once it is over. Nothing hangs on when exactly it goes.
local SLACK_MS = 1000
-- Envoy asks another worker where one is slow to answer, and gives up on both a quarter of a second after it began.
local ASKED_TWICE_WITHIN_MS = 1000
-- What is told of a lease is told in the first seconds of a request, or not at all (`ext_authz/leases/grants.py`).
local TOLD_TWICE_WITHIN_MS = 10000
local WORDS = 5
-- Of those who reserve: fewer would only be out of the others' reach.
local FEWEST_RESERVED = 4

local function time_ms()
  local time = server.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Return what is counted under a key as begin, end and used; nothing where nothing is.
local function counted(key)
  local kept = server.call('GET', key)
  if not kept then
    return nil
  end
  local begins, ends, used = string.match(kept, '^(%d+) (%d+) (%d+)$')
  if not begins then
    error('what is counted cannot be read')
  end
  return tonumber(begins), tonumber(ends), tonumber(used)
end

local function count(key, begins, ends, used)
  server.call('SET', key, string.format('%.0f %.0f %.0f', begins, ends, used),
    'PXAT', string.format('%.0f', ends + SLACK_MS))
end

-- Which of an asker's two windows this moment lies in, and what is used of it; nothing where it lies in neither.
local function current(key, words, at, now)
  local begins, middle, ends = tonumber(words[at + 2]), tonumber(words[at + 3]), tonumber(words[at + 4])
  if now < begins or now >= ends then
    return nil
  end
  if now >= middle then
    begins = middle
  else
    ends = middle
  end
  local window = {key = key, limit = tonumber(words[at]), price = tonumber(words[at + 1]),
    begins = begins, ends = ends, kept_from = begins, kept_until = ends, used = 0}
  local kept_from, kept_until, used = counted(key)
  if kept_from and kept_until > begins then
    -- Of this window, or of one that overlaps: when days and months begin was changed, and what is used stays used.
    window.used = used
    if kept_from > now then
      -- The clock was put back. The later window goes on, or it would begin anew when its time comes again.
      window.kept_from, window.kept_until = kept_from, kept_until
    end
  end
  return window
end

-- Take `wanted` calls, or as many as all windows allow, and as leave each of them `parts` times as many in all; where
-- that is several times as many, no fewer than a few. A request that has taken its call does not take it again. Nothing
-- is taken where the time is in none of the windows.
-- KEYS: the request's, then each window's. ARGV: the request's id, wanted, parts; then for each window its limit, the
-- price of a call, its begin, its end, and the next one's end.
-- Answers in one line: the calls, the time, and of each window its begin, its end, and what remains.
local function take_calls(keys, args)
  local now = time_ms()
  local calls, parts = tonumber(args[2]), tonumber(args[3])
  local windows = {}
  for number = 2, #keys do
    local window = current(keys[number], args, 4 + (number - 2) * WORDS, now)
    if not window then
      return server.status_reply(string.format('ELSEWHEN %.0f', now))
    end
    windows[number - 1] = window
    calls = math.min(calls, math.floor(math.max(window.limit - window.used, 0) / (window.price * parts)))
  end
  if parts > 1 and calls < FEWEST_RESERVED then
    calls = 0
  end
  local is_repeated = args[1] ~= '' and server.call('EXISTS', keys[1]) == 1
  if calls > 0 and not is_repeated then
    for _, window in ipairs(windows) do
      window.used = window.used + calls * window.price
      count(window.key, window.kept_from, window.kept_until, window.used)
    end
    if args[1] ~= '' then
      server.call('SET', keys[1], '', 'PX', ASKED_TWICE_WITHIN_MS)
    end
  end
  local told = {string.format('%d %.0f', is_repeated and 1 or calls, now)}
  for _, window in ipairs(windows) do
    local remaining = math.max(window.limit - window.used, 0)
    told[#told + 1] = string.format('%.0f %.0f %.0f', window.begins, window.ends, remaining)
  end
  return server.status_reply(table.concat(told, ' '))
end

-- Give calls back that were taken and not spent, to those of their windows that still last. What is left of a lease is
-- given back once, whoever else does it, and not after the time that is named: nobody remembers for ever that it was.
-- KEYS: the lease's, then each window's. ARGV: the lease's name, or nothing for calls that were in none; until when; how
-- many calls; then for each window the price of a call and its begin.
-- Answers to how many windows.
local function give_back_calls(keys, args)
  local now, calls, given = time_ms(), tonumber(args[3]), 0
  if args[1] ~= '' and (now > tonumber(args[2])
    or not server.call('SET', keys[1], '', 'NX', 'PX', TOLD_TWICE_WITHIN_MS)) then
    return server.status_reply('0')
  end
  for number = 2, #keys do
    local key, price, taken_from = keys[number], tonumber(args[number * 2]), tonumber(args[number * 2 + 1])
    local begins, ends, used = counted(key)
    if begins == taken_from and now < ends then
      count(key, begins, ends, math.max(used - calls * price, 0))
      given = given + 1
    end
  end
  return server.status_reply(string.format('%d', given))
end

-- Both go on where memory is short: what fills it, tenants' caches, gives way (`control_plane/cache/cache.lua`).
server.register_function{function_name = 'take_calls', callback = take_calls, flags = {'allow-oom'}}
server.register_function{function_name = 'give_back_calls', callback = give_back_calls, flags = {'allow-oom'}}
