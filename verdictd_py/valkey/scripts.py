"""Lua scripts of the session store. Valkey runs each of them as one atomic step.

Each kind of entry (challenges, tokens, claims) has three keys: a hash of the contents by name, a
sorted set of the names by their expiry in seconds since 1970, and the total size of the contents
in bytes. If the three disagree, because the server evicted one of them or another client changed
it, the kind is emptied: guests then attest again.

A challenge is stored with the run id of the server. A server that restarts from its files, and a
replica that is promoted, may have a challenge again that was taken already. It has another run
id, so the challenge is discarded.

Source: valkey.io, "Scripting with Lua", "INFO" (run_id), "EXPIRE".
"""

from __future__ import annotations

from typing import Final

_COMMON: Final = """
local function empty(kind) server.call('DEL', kind[1], kind[2], kind[3]) end
local function size(kind) return tonumber(server.call('GET', kind[3]) or '0') end
local function rows(kind) return server.call('ZCARD', kind[2]) end
local function run()
  return string.match(server.call('INFO', 'server'), 'run_id:(%x+)') or 'unknown'
end
local function remove(kind, names)
  for _, name in ipairs(names) do
    server.call('DECRBY', kind[3], server.call('HSTRLEN', kind[1], name))
    server.call('HDEL', kind[1], name)
    server.call('ZREM', kind[2], name)
  end
end
local function require_consistent(kind)
  local stored = server.call('HLEN', kind[1])
  local total = server.call('GET', kind[3])
  local number = total and tonumber(total)
  if stored ~= rows(kind) or (total and not number) or (stored > 0 and not total)
      or (number and number < 0) then
    empty(kind)
  end
end
local function discard_expired(kind, now)
  remove(kind, server.call('ZRANGEBYSCORE', kind[2], '-inf', now, 'LIMIT', 0, 1000))
end
local function evict(kind, most_rows, most_size)
  while true do
    local excess = math.max(rows(kind) - most_rows, size(kind) > most_size and 1 or 0)
    if excess <= 0 then return end
    local oldest = server.call('ZRANGE', kind[2], 0, math.min(excess, 1000) - 1)
    if #oldest == 0 then return empty(kind) end
    remove(kind, oldest)
  end
end
local function put(kind, name, content, now, expires, ahead, seconds)
  require_consistent(kind)
  discard_expired(kind, now)
  remove(kind, server.call('ZRANGEBYSCORE', kind[2], '(' .. ahead, '+inf', 'LIMIT', 0, 1000))
  local before = server.call('HSTRLEN', kind[1], name)
  server.call('HSET', kind[1], name, content)
  server.call('ZADD', kind[2], expires, name)
  server.call('INCRBY', kind[3], string.len(content) - before)
  for _, key in ipairs(kind) do server.call('EXPIRE', key, seconds) end
end
local function get(kind, name, now)
  local expires = server.call('ZSCORE', kind[2], name)
  if not expires or tonumber(expires) <= tonumber(now) then return false end
  return server.call('HGET', kind[1], name)
end
"""

# Redis, and Valkey for its scripts, call the server's object `redis`.
_PRELUDE: Final = "local server = redis\n" + _COMMON

PUT_SESSION: Final = (
    _PRELUDE
    + """
local challenges, tokens = {KEYS[1], KEYS[2], KEYS[3]}, {KEYS[4], KEYS[5], KEYS[6]}
local is_challenge, name, content = ARGV[1] == 'challenge', ARGV[2], ARGV[3]
local now, expires, ahead, seconds = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local most_challenges, most_sessions, most_bytes =
  tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
if is_challenge then
  require_consistent(tokens)
  put(challenges, name, run() .. ' ' .. content, now, expires, ahead, seconds)
  evict(challenges, most_challenges, math.huge)
else
  require_consistent(challenges)
  put(tokens, name, content, now, expires, ahead, seconds)
  evict(tokens, math.huge, most_bytes)
end
discard_expired(tokens, now)
evict(challenges, math.max(most_sessions - rows(tokens), 0), math.huge)
evict(tokens, most_sessions - rows(challenges), math.huge)
return name
"""
)

PUT_CLAIMS: Final = (
    _PRELUDE
    + """
local claims = {KEYS[1], KEYS[2], KEYS[3]}
local name, content, now, expires, ahead = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local before = server.call('ZSCORE', claims[2], name)
if before and tonumber(before) > tonumber(expires) and tonumber(before) <= tonumber(ahead) then
  expires = before
end
put(claims, name, content, now, expires, ahead, ARGV[6])
evict(claims, math.huge, tonumber(ARGV[7]))
return name
"""
)

TAKE: Final = (
    _PRELUDE
    + """
local challenges, name = {KEYS[1], KEYS[2], KEYS[3]}, ARGV[1]
local stored = get(challenges, name, ARGV[2])
if server.call('HEXISTS', challenges[1], name) == 1 then remove(challenges, {name}) end
if not stored then return {name, false} end
local stored_run, content = string.match(stored, '^(%S+) (.*)$')
if stored_run ~= run() then return {name, false} end
return {name, content}
"""
)

GET: Final = (
    _PRELUDE
    + """
return {ARGV[1], get({KEYS[1], KEYS[2], KEYS[3]}, ARGV[1], ARGV[2])}
"""
)

CHECK: Final = (
    _PRELUDE
    + """
run()
return {server.call('ZCARD', KEYS[1]), server.call('ZCARD', KEYS[2])}
"""
)
