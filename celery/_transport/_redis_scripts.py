"""The scripts that the Redis transport runs on the server, and the names of its keys.

A script runs alone and as a whole: what it does to queues and bookkeeping happens together or
not at all. Every script begins with a command that frees memory, which lets it run to its end
on a server that is at its memory limit (Redis checks the limit before the first write only).

Keys, all with the global key prefix in front:

==============================  ================================================================
``unacked``                     kombu's hash: tag to ``[envelope, exchange, routing key]``
``unacked_index``               kombu's sorted set: tag by time of delivery
``unacked.owners``              sorted set: owner by the time it was last heard of; a leading
                                ``~`` marks one whose messages are being given back
``unacked.owner:OWNER``         hash: inbox of the owner to the queue that it belongs to
``unacked.inbox:OWNER:QUEUE``   list: what a blocking move took from the queue for the owner
``unacked.delayed:QUEUE``       sorted set: name of a message, as a rule the id of its task, by
                                the server's time at which it is due
``unacked.delayed:QUEUE:text``  hash: name to the key of a list, a line feed and the envelope
``unacked.delayed:QUEUE:turn``  the owner who releases what is due; expires
==============================  ================================================================
"""

from __future__ import annotations

from hashlib import sha1

__all__ = (
    "BEAT",
    "CLAIM",
    "GIVE_BACK",
    "LEAVE",
    "PUT_BACK",
    "RECALL",
    "RELEASE",
    "RENEW",
    "Script",
)


class Script:
    """A script and the digest that the server knows it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


#: Acknowledge what is done and claim what comes next.
#:
#: KEYS: unacked, unacked_index, owners, then the lists to take from in order of preference:
#: first the inboxes, then the queues, step of priority by step.
#: ARGV: owner, or nothing for a claim outside of any lease; beginning of tags; how many lists
#: a step of priority has; how many inboxes; number of the first tag; how many messages at
#: most; nothing, or the length and the end of the message that the claimer has read from the
#: first inbox, which then is not sent again but stands as an empty text in the result;
#: for each list the end of the record of its messages; then tags to acknowledge.
#: Result: number of the list (from 1), message, number of the list, message…
#:
#: Within a step every queue gives an equal share first, and what is left to take comes from
#: the first that has it. Records are written before the list is cut, so an error between the
#: two repeats a message rather than losing it.
CLAIM = Script("""
local unacked, index, owners = KEYS[1], KEYS[2], KEYS[3]
local lists = #KEYS - 3
local first_tag = 9 + lists
if #ARGV >= first_tag then
  local tags = {}
  for i = first_tag, #ARGV do tags[#tags + 1] = ARGV[i] end
  redis.call('ZREM', index, unpack(tags))
  redis.call('HDEL', unacked, unpack(tags))
else
  redis.call('ZREM', index, '')
end
local owner, prefix = ARGV[1], ARGV[2]
local width, inboxes = tonumber(ARGV[3]), tonumber(ARGV[4])
local number, room = tonumber(ARGV[5]), tonumber(ARGV[6])
local known_size, known_end = tonumber(ARGV[7]), ARGV[8]
if room == 0 then return {} end
if owner ~= '' and not redis.call('ZSCORE', owners, owner) then
  return redis.error_reply('FENCED the lease of ' .. owner .. ' has ended')
end
local clock = redis.call('TIME')
local now = clock[1] .. '.' .. string.format('%06d', clock[2])
local result = {}

local function take(list, most)
  local key = KEYS[3 + list]
  local found = redis.call('LRANGE', key, -most, -1)
  local count = #found
  if count == 0 then return end
  local records, scores = {}, {}
  local tail = ARGV[8 + list]
  for i = count, 1, -1 do
    local tag = prefix .. string.format('%d', number)
    number = number + 1
    records[#records + 1] = tag
    records[#records + 1] = '[' .. found[i] .. tail
    scores[#scores + 1] = now
    scores[#scores + 1] = tag
    result[#result + 1] = list
    local text = found[i]
    local is_first = #result == 1
    if is_first and #text == known_size and string.sub(text, -#known_end) == known_end then
      text = ''
    end
    result[#result + 1] = text
  end
  redis.call('HSET', unacked, unpack(records))
  redis.call('ZADD', index, unpack(scores))
  redis.call('LTRIM', key, 0, -(count + 1))
  room = room - count
end

for list = 1, inboxes do
  if room > 0 then take(list, room) end
end
for step = inboxes + 1, lists, width do
  if room <= 0 then break end
  local last = step + width - 1
  if width > 1 then
    local share = math.ceil(room / width)
    for list = step, last do
      if room > 0 then take(list, math.min(share, room)) end
    end
  end
  for list = step, last do
    if room > 0 then take(list, room) end
  end
end
return result
""")

#: Give messages that were claimed back to queues; one that is no longer filed stays away.
#:
#: KEYS: unacked, unacked_index, then lists.
#: ARGV: "RPUSH" (delivered next) or "LPUSH" (delivered last), then for each message: tag,
#: text, how many lists it goes to, and their numbers (from 1).
#: Result: how many messages were given back.
GIVE_BACK = Script("""
local push, i, count = ARGV[1], 2, 0
while i <= #ARGV do
  local tag, text, lists = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  redis.call('ZREM', KEYS[2], tag)
  if redis.call('HDEL', KEYS[1], tag) == 1 then
    for j = i + 3, i + 2 + lists do
      redis.call(push, KEYS[2 + tonumber(ARGV[j])], text)
    end
    count = count + 1
  end
  i = i + 3 + lists
end
return count
""")

#: Empty an inbox into the queue it belongs to, oldest message to be delivered first.
#:
#: KEYS: inbox, queue.
#: Result: how many messages there were.
PUT_BACK = Script("""
local found = redis.call('LRANGE', KEYS[1], 0, -1)
redis.call('DEL', KEYS[1])
for i = 1, #found do redis.call('RPUSH', KEYS[2], found[i]) end
return #found
""")

#: Say that an owner lives, and learn which ones don't.
#:
#: KEYS: owners.
#: ARGV: owner; seconds after which one that says nothing counts as dead; 1 to join, which an
#: owner does once, 0 after that.
#: Result: 1 if the owner is registered, else 0; then owners whose messages the caller has to
#: give back now. Nobody else is told of them for as long as a lease lasts.
BEAT = Script("""
local owners, owner, lease = KEYS[1], ARGV[1], tonumber(ARGV[2])
redis.call('ZREM', owners, '')
local clock = redis.call('TIME')
local now = tonumber(clock[1] .. '.' .. string.format('%06d', clock[2]))
local stamp = string.format('%.3f', now)
local result = {0}
if ARGV[3] == '1' or redis.call('ZSCORE', owners, owner) then
  redis.call('ZADD', owners, stamp, owner)
  result[1] = 1
end
local silent = redis.call(
  'ZRANGEBYSCORE', owners, '-inf', string.format('%.3f', now - lease), 'LIMIT', 0, 10)
for _, member in ipairs(silent) do
  local name = member
  if string.sub(name, 1, 1) == '~' then name = string.sub(name, 2) end
  redis.call('ZREM', owners, member)
  redis.call('ZADD', owners, stamp, '~' .. name)
  result[#result + 1] = name
end
return result
""")

#: Make messages look as if they had been delivered just now.
#:
#: KEYS: unacked_index.
#: ARGV: tags; one that is not there stays away.
RENEW = Script("""
redis.call('ZREM', KEYS[1], '')
local clock = redis.call('TIME')
local now = clock[1] .. '.' .. string.format('%06d', clock[2])
local scores = {}
for i = 1, #ARGV do
  scores[#scores + 1] = now
  scores[#scores + 1] = ARGV[i]
end
redis.call('ZADD', KEYS[1], 'XX', unpack(scores))
return #ARGV
""")

#: Let claimed messages wait for their time; one that is no longer filed stays away.
#:
#: KEYS: unacked, unacked_index, then for each queue: delayed, its texts.
#: ARGV for each message: tag; name; seconds to wait; number of the last key before those of
#: its queue; key of the list that it goes to; how long the end of its record is.
#: Result: how many messages wait now.
#:
#: A name that is taken, by another message of the same task, gets the tag behind it.
LEAVE = Script("""
local unacked, index, count = KEYS[1], KEYS[2], 0
redis.call('ZREM', index, '')
local clock = redis.call('TIME')
local now = tonumber(clock[1] .. '.' .. string.format('%06d', clock[2]))
for i = 1, #ARGV, 6 do
  local tag, name, queue = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 3])
  local delayed, texts = KEYS[queue + 1], KEYS[queue + 2]
  local record = redis.call('HGET', unacked, tag)
  if record then
    if redis.call('HEXISTS', texts, name) == 1 then name = name .. ' ' .. tag end
    local text = string.sub(record, 2, -(1 + tonumber(ARGV[i + 5])))
    redis.call('HSET', texts, name, ARGV[i + 4] .. '\\n' .. text)
    redis.call('ZADD', delayed, string.format('%.6f', now + tonumber(ARGV[i + 2])), name)
    redis.call('HDEL', unacked, tag)
    count = count + 1
  end
  redis.call('ZREM', index, tag)
end
return count
""")

#: Give messages whose time has come back to their queues, the first due to be delivered first.
#:
#: KEYS for each queue: delayed, its texts, its turn.
#: ARGV: owner; how many messages at most; milliseconds for which the turn lasts; 1 if the time
#: of every message has come.
#: Result: how many messages were given back; seconds until the next is due, of the queues whose
#: turn the owner has, or nothing.
RELEASE = Script("""
local owner, room, turn_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]
redis.call('ZREM', KEYS[1], '')
local clock = redis.call('TIME')
local now = tonumber(clock[1] .. '.' .. string.format('%06d', clock[2]))
local until_when = ARGV[4] == '1' and '+inf' or string.format('%.6f', now)
local count, soonest = 0, false
for at = 1, #KEYS, 3 do
  local delayed, texts, turn = KEYS[at], KEYS[at + 1], KEYS[at + 2]
  if room > count then
    local names = redis.call(
      'ZRANGEBYSCORE', delayed, '-inf', until_when, 'LIMIT', 0, room - count)
    for i = #names, 1, -1 do
      local record = redis.call('HGET', texts, names[i])
      if record then
        local feed = string.find(record, '\\n', 1, true)
        redis.call('RPUSH', string.sub(record, 1, feed - 1), string.sub(record, feed + 1))
        redis.call('HDEL', texts, names[i])
      end
    end
    if #names > 0 then redis.call('ZREM', delayed, unpack(names)) end
    count = count + #names
  end
  local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if #first > 0 then
    local holder = redis.call('GET', turn)
    if not holder or holder == owner then
      redis.call('SET', turn, owner, 'PX', turn_ms)
      local wait = tonumber(first[2]) - now
      if not soonest or wait < soonest then soonest = wait end
    end
  end
end
return {count, soonest and string.format('%.6f', soonest)}
""")

#: Give messages back to their queues before their time.
#:
#: KEYS for each queue: delayed, its texts.
#: ARGV: names.
#: Result: how many messages were given back.
RECALL = Script("""
redis.call('ZREM', KEYS[1], '')
local count = 0
for at = 1, #KEYS, 2 do
  local delayed, texts = KEYS[at], KEYS[at + 1]
  for i = 1, #ARGV do
    local record = redis.call('HGET', texts, ARGV[i])
    if record then
      local feed = string.find(record, '\\n', 1, true)
      redis.call('RPUSH', string.sub(record, 1, feed - 1), string.sub(record, feed + 1))
      redis.call('HDEL', texts, ARGV[i])
      redis.call('ZREM', delayed, ARGV[i])
      count = count + 1
    end
  end
end
return count
""")
