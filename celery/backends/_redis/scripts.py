"""What runs inside Redis, so that it happens at once and in one round trip."""

from __future__ import annotations

from typing import Final

#: Store the document of a task and announce it, unless what is stored has to stay.
#:
#: KEYS  1 the document, which is also the name of the channel
#: ARGV  1 document  2 life in seconds, 0 for ever  3 stored document that may be replaced, or ''
#:       4… stored states that stay
#: Returns 1 when stored, 0 when the stored one was kept, or a stored document that is not plain
#: JSON: then the caller has to look into it, and to call again with it as ARGV 3.
STORE_LUA: Final = """\
local head = redis.call('GETRANGE', KEYS[1], 0, 63)
if head ~= '' and (ARGV[3] == '' or redis.call('GET', KEYS[1]) ~= ARGV[3]) then
    local state = string.match(head, '^{"status": "([^"]*)"')
    if not state then return redis.call('GET', KEYS[1]) end
    for place = 4, #ARGV do
        if state == ARGV[place] then return 0 end
    end
end
if ARGV[2] == '0' then
    redis.call('SET', KEYS[1], ARGV[1])
else
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
"""

#: Store the documents of many tasks and announce them, where what is stored has not to stay.
#:
#: KEYS  the documents, which are also the names of the channels
#: ARGV  1 life in seconds, 0 for ever  2 state that stays when it is stored  3… documents
#: Returns for each 1 when stored, 0 when the stored one was kept, 2 when something is stored that
#: is not plain JSON: then the caller has to look into it.
STORE_MANY_LUA: Final = """\
local outcomes = {}
for place, key in ipairs(KEYS) do
    local document = ARGV[place + 2]
    local head = redis.call('GETRANGE', key, 0, 63)
    local state = string.match(head, '^{"status": "([^"]*)"')
    if head ~= '' and not state then
        outcomes[place] = 2
    elseif state == ARGV[2] then
        outcomes[place] = 0
    else
        if ARGV[1] == '0' then
            redis.call('SET', key, document)
        else
            redis.call('SET', key, document, 'EX', ARGV[1])
        end
        redis.call('PUBLISH', key, document)
        outcomes[place] = 1
    end
end
return outcomes
"""

#: Count a header task that has ended, once; whoever completes the header claims the body.
#:
#: KEYS  1 parts  2 size of the header  3 tasks added to it later  4 counted tasks  5 claim
#:       6 first part that failed
#: ARGV  1 task id and index  2 part  3 index  4 life of all these in seconds, 0 for ever
#:       5 token of the caller  6 life of the claim in seconds  7 1 keeps the order of the header
#:       8 1 when the part failed
#: Returns {0} while parts are missing or when the body has started; {2, milliseconds} when
#: somebody else holds the claim for that long; {1, first failed part or '', parts} to the one
#: who has to start the body.
CHORD_PART_RETURN_LUA: Final = """\
if redis.call('GET', KEYS[5]) == 'done' then return {0} end
if redis.call('SADD', KEYS[4], ARGV[1]) == 1 then
    if ARGV[7] == '1' then
        -- A task added to the header has the index of the one that added it, and comes after it.
        local place = ARGV[3]
        if redis.call('ZCOUNT', KEYS[1], place, '(' .. (place + 1)) > 0 then
            place = place + redis.call('SCARD', KEYS[4]) * 1e-7
        end
        redis.call('ZADD', KEYS[1], place, ARGV[2])
    else
        redis.call('RPUSH', KEYS[1], ARGV[2])
    end
    if ARGV[8] == '1' then redis.call('SET', KEYS[6], ARGV[2], 'NX') end
    if ARGV[4] ~= '0' then
        for _, key in ipairs({KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6]}) do
            redis.call('EXPIRE', key, ARGV[4])
        end
    end
end
local size = redis.call('GET', KEYS[2])
if not size then return {0} end
local total = tonumber(size) + tonumber(redis.call('GET', KEYS[3]) or '0')
if redis.call('SCARD', KEYS[4]) < total then return {0} end
if not redis.call('SET', KEYS[5], ARGV[5], 'NX', 'EX', ARGV[6]) then
    return {2, redis.call('PTTL', KEYS[5])}
end
local parts
if ARGV[7] == '1' then
    parts = redis.call('ZRANGE', KEYS[1], 0, -1)
else
    parts = redis.call('LRANGE', KEYS[1], 0, -1)
end
return {1, redis.call('GET', KEYS[6]) or '', parts}
"""

#: Keep the claim on a body while it is being started.
#:
#: KEYS  1 claim
#: ARGV  1 token of the caller  2 further life in seconds
#: Returns 1, or 0 when the claim was lost to somebody else.
CHORD_CLAIM_EXTEND_LUA: Final = """\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('EXPIRE', KEYS[1], ARGV[2])
"""

#: Forget a chord whose body was started, or failed.
#:
#: KEYS  1 claim  2… everything else
#: ARGV  1 life in seconds of the note that it is done
#: Returns the number of keys that were there.
CHORD_CLEANUP_LUA: Final = """\
redis.call('SET', KEYS[1], 'done', 'EX', ARGV[1])
return redis.call('DEL', unpack(KEYS, 2))
"""
