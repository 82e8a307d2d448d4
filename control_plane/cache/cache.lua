#!lua name=bulkhead_cache
-- A tenant's cache, and the ledger that bounds it. Every function takes one key, the tenant's `tenant:{id}:cache`, and
-- reaches only what is below it:
--
--   :v:<digest>  a value, which expires by itself
--   :used        sorted set: every digest in the order of last use, counted on from the highest
--   :due         sorted set: every digest by when its value expires, in milliseconds
--   :bytes       hash: what each value takes by MEMORY USAGE, and their `total`
--
-- Each runs as the tenant's own user (`acl.py`), so that another tenant's key is refused, whoever has computed it. The
-- work of a call is bounded, since nobody else is served meanwhile: what would need more is simply not kept.

-- So many entries a call looks through for each thing that it does.
local MOST = 64
local MOST_CLEARED = 256
-- Digests are equally long, so that some entries of a sorted set tell how large all are: only their heights differ.
local SAMPLES = 64
-- What the ledger takes of a single value.
local LEAST_LEDGER = 320

local function ledger(root)
  return root .. ':used', root .. ':due', root .. ':bytes'
end

local function value_of(root, digest)
  return root .. ':v:' .. digest
end

-- Doubles as large as the time would be written with an exponent.
local function whole(number)
  return string.format('%d', number)
end

local function now_ms()
  local time = server.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Where the latest use stands. Not the time: a clock that is set back would make what is new the oldest.
local function latest(used)
  return whole((server.call('ZRANGE', used, -1, -1, 'WITHSCORES')[2] or 0) + 1)
end

-- Forget a value, whether it is there, expired, or was never.
local function drop(root, digest)
  local used, due, bytes = ledger(root)
  server.call('DEL', value_of(root, digest))
  local size = server.call('HGET', bytes, digest)
  if size then
    server.call('HINCRBY', bytes, 'total', -size)
    server.call('HDEL', bytes, digest)
  end
  server.call('ZREM', used, digest)
  server.call('ZREM', due, digest)
end

-- Forget what has expired: Valkey takes the values away, and tells nobody. False where there is more.
local function reconcile(root)
  local _, due = ledger(root)
  local expired = server.call('ZRANGE', due, '-inf', whole(now_ms()), 'BYSCORE', 'LIMIT', 0, MOST)
  for _, digest in ipairs(expired) do
    drop(root, digest)
  end
  return #expired < MOST
end

-- Let the ledger expire with its last value.
local function settle(root)
  local used, due, bytes = ledger(root)
  local last = server.call('ZRANGE', due, -1, -1, 'WITHSCORES')[2]
  if not last then
    server.call('DEL', used, due, bytes)
    return
  end
  for _, key in ipairs({used, due, bytes}) do
    server.call('PEXPIREAT', key, last)
  end
end

-- What the tenant takes, the ledger included.
local function taken(root)
  local _, _, bytes = ledger(root)
  local sum = tonumber(server.call('HGET', bytes, 'total') or '0')
  for _, key in ipairs({ledger(root)}) do
    sum = sum + (server.call('MEMORY', 'USAGE', key, 'SAMPLES', SAMPLES) or 0)
  end
  return sum
end

-- Forget what was used longest ago until the rest fits. False where only the digest is left, or too many had to go.
local function make_room(root, digest, limit)
  local used = ledger(root)
  for _ = 1, MOST do
    local oldest = server.call('ZRANGE', used, 0, 0)[1]
    if oldest == digest then
      return false
    end
    drop(root, oldest)
    if taken(root) <= limit then
      return true
    end
  end
  return false
end

-- Store a value with its entry in the ledger, in place of what was there, and say what the value takes.
local function store(root, digest, value, lifetime_ms)
  local used, due, bytes = ledger(root)
  local before = server.call('HGET', bytes, digest) or 0
  local expires = whole(now_ms() + lifetime_ms)
  server.call('SET', value_of(root, digest), value, 'PXAT', expires)
  local size = server.call('MEMORY', 'USAGE', value_of(root, digest))
  server.call('HSET', bytes, digest, size)
  server.call('HINCRBY', bytes, 'total', size - before)
  server.call('ZADD', due, expires, digest)
  server.call('ZADD', used, latest(used), digest)
  return size
end

-- Keep a value: digest, value, milliseconds to live, and how much all the tenant's may take. Answers 1 where it is
-- kept, else 0. What was there before is gone in either case.
local function put(keys, args)
  local root, digest, limit = keys[1], args[1], tonumber(args[4])
  local is_reconciled = reconcile(root)
  local size = store(root, digest, args[2], tonumber(args[3]))
  local fits = taken(root) <= limit
  -- Nobody makes room for what finds none, nor while there may be room that expired values have left.
  if not fits and is_reconciled and size + LEAST_LEDGER <= limit then
    fits = make_room(root, digest, limit)
  end
  if not fits then
    drop(root, digest)
  end
  settle(root)
  return fits and 1 or 0
end

-- Find a value and note its use. Answers 0 where something else than a value was in its place, which is gone then.
local function get(keys, args)
  local root, digest = keys[1], args[1]
  local used = ledger(root)
  local value = server.pcall('GET', value_of(root, digest))
  local is_known = server.call('ZSCORE', used, digest)
  if type(value) == 'string' and is_known then
    -- Not worth a line of the log: after a restart, the oldest may be somebody else.
    server.set_repl(server.REPL_NONE)
    server.call('ZADD', used, 'XX', latest(used), digest)
    server.set_repl(server.REPL_ALL)
    return value
  end
  -- Expired, or taken away; or there without the ledger, which would not be bounded.
  if value or is_known then
    drop(root, digest)
    settle(root)
  end
  return type(value) == 'table' and 0 or false
end

local function delete(keys, args)
  drop(keys[1], args[1])
  settle(keys[1])
  return 1
end

-- Say how many bytes the tenant takes, and in how many values.
local function usage(keys)
  local root = keys[1]
  local used = ledger(root)
  reconcile(root)
  settle(root)
  return {taken(root), server.call('ZCARD', used)}
end

-- Whether the ledger is what it was made as.
local function is_sound(root)
  local used, due, bytes = ledger(root)
  local answers = {server.pcall('ZCARD', used), server.pcall('ZCARD', due), server.pcall('HGET', bytes, 'total')}
  for _, answer in ipairs(answers) do
    if type(answer) == 'table' then
      return false
    end
  end
  return true
end

-- Forget everything, a part in each call. Answers 1 while there is more.
local function clear(keys)
  local root = keys[1]
  local used, due, bytes = ledger(root)
  if not is_sound(root) then
    -- Values that are left are found by nobody any more, and expire.
    server.call('DEL', used, due, bytes)
    return 0
  end
  for _, digest in ipairs(server.call('ZRANGE', used, 0, MOST_CLEARED - 1)) do
    drop(root, digest)
  end
  if server.call('ZCARD', used) > 0 then
    return 1
  end
  server.call('DEL', used, due, bytes)
  return 0
end

-- Where memory is short nothing is added any more; what only reads or gives back goes on.
server.register_function{function_name = 'cache_put', callback = put}
server.register_function{function_name = 'cache_get', callback = get, flags = {'allow-oom'}}
server.register_function{function_name = 'cache_delete', callback = delete, flags = {'allow-oom'}}
server.register_function{function_name = 'cache_usage', callback = usage, flags = {'allow-oom'}}
server.register_function{function_name = 'cache_clear', callback = clear, flags = {'allow-oom'}}
