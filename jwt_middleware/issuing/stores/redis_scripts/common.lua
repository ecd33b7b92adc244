-- What the other scripts begin with.
--
-- All keys stand behind the prefix:
--   session:ID      a JSON array, whose places are named below
--   subject:TEXT    the ids of the subject's sessions, by when they were last used
--   head            number and mark of the last revocation
--   log             the revocations, by number; each is mark|until|name
--   ends            the same, by when they are over
--   revoked:NAME    until when it is revoked
--   clock           what steady time needs, see steady.py
--   layout          the latest layout that a worker has written, and the oldest one whose workers can use it
--   answer:MARK     an answer that would be another one if its step were done twice
--
-- A name is the JSON array [provider, issuer, claim, value]. A realm is the beginning of one: ["provider","issuer".
-- Moments are whole milliseconds, which cjson keeps exactly.
local prefix, time = KEYS[1], redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local stored = redis.call('HMGET', prefix .. 'layout', 'layout', 'oldest')
local layout, oldest = tonumber(stored[1] or 0), tonumber(stored[2] or 0)
if oldest > LAYOUT then return redis.error_reply('LAYOUT ' .. layout .. ' ' .. oldest) end

-- The places of a session. A later layout may have more, which stay as they are.
local VERSION, REALM, SUBJECT, GENERATION, PARENT, USED_UP, OPENED, ROTATED, USED, ENDS, EXPIRES, ACCESS, GRANTED, ATTEMPT =
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14

local function text(number) return string.format('%.0f', number) end

-- The session in the present layout. One in the layout before, which began with the subject, has no realm; it belongs
-- to whoever asks.
local function read_row(row, realm)
    local session = cjson.decode(row)
    if type(session[1]) == 'number' then return session end
    return {
        LAYOUT, realm, session[1], session[2], session[2] - 1, 1, session[3], session[4], session[5], session[6],
        session[7], session[8] * 1000, session[9], '',
    }
end

local function load(id, realm)
    local row = redis.call('GET', prefix .. 'session:' .. id)
    return row and read_row(row, realm)
end

local function is_alive(session, realm)
    return session and session[REALM] == realm and now < session[EXPIRES]
end

-- Keep the key until `over` at least.
local function keep(name, over)
    local left = redis.call('PTTL', name)
    if left == -1 or left < over - now then redis.call('PEXPIREAT', name, text(over)) end
end

-- What is written from now on has our layout, or a later one that a newer worker has noted.
local function note_layout(over)
    if layout < LAYOUT or oldest < OLDEST then
        redis.call('HSET', prefix .. 'layout', 'layout', math.max(layout, LAYOUT), 'oldest', math.max(oldest, OLDEST))
    end
    keep(prefix .. 'layout', over)
end

local function save(id, session)
    local row = cjson.encode(session)
    redis.call('SET', prefix .. 'session:' .. id, row, 'PXAT', text(session[EXPIRES] + SESSION_RETENTION))
    local index = prefix .. 'subject:' .. session[SUBJECT]
    redis.call('ZADD', index, text(session[USED]), id)
    keep(index, session[ENDS] + SESSION_RETENTION)
    return row
end

-- Steady time, and what is to be written if it goes on from now.
local function steady(latest)
    local state = redis.call('HMGET', prefix .. 'clock', 'seen', 'offset')
    local back = math.max(0, tonumber(state[1] or 0) - now, tonumber(latest) - now)
    if back > SET_BACK then back = back + UNKNOWN end
    local offset = tonumber(state[2] or 0) + back
    return now + offset, offset
end

local function save_steady(offset, over)
    redis.call('HSET', prefix .. 'clock', 'seen', text(now), 'offset', text(offset))
    keep(prefix .. 'clock', over + SESSION_RETENTION)
    note_layout(over + SESSION_RETENTION)
end

-- An answer is remembered for a client that sends its step again because the connection broke.
local function remember(mark, answer)
    redis.pcall('SET', prefix .. 'answer:' .. mark, cjson.encode(answer), 'PX', 10000)
    return answer
end

local function recall(mark)
    local answer = redis.call('GET', prefix .. 'answer:' .. mark)
    return answer and cjson.decode(answer)
end

local function revoke(name, over, mark)
    local key = prefix .. 'revoked:' .. name
    local before = tonumber(redis.call('GET', key) or 0)
    if before >= over then return before end
    local number = redis.call('HINCRBY', prefix .. 'head', 'number', 1)
    redis.call('HSET', prefix .. 'head', 'mark', mark)
    local entry = mark .. '|' .. text(over) .. '|' .. name
    redis.call('ZADD', prefix .. 'log', number, entry)
    redis.call('ZADD', prefix .. 'ends', text(over), entry)
    redis.call('SET', key, text(over), 'PXAT', text(over))
    local swept = redis.call('ZRANGEBYSCORE', prefix .. 'ends', '-inf', text(now), 'LIMIT', 0, 20)
    if #swept > 0 then
        redis.call('ZREM', prefix .. 'log', unpack(swept))
        redis.call('ZREM', prefix .. 'ends', unpack(swept))
    end
    for _, kept in ipairs({'head', 'log', 'ends'}) do keep(prefix .. kept, over) end
    note_layout(over)
    return over
end

local function finish(id, session, mark)
    redis.call('DEL', prefix .. 'session:' .. id)
    redis.call('ZREM', prefix .. 'subject:' .. session[SUBJECT], id)
    return revoke(session[REALM] .. ',"sid","' .. id .. '"]', session[ACCESS] + RETENTION, mark)
end

-- Pairs of id and session of those that have not ended, the last used last. Where `prune` says so, those that have
-- ended make room.
local function alive(subject, realm, prune)
    local found, index = {}, prefix .. 'subject:' .. subject
    for _, id in ipairs(redis.call('ZRANGE', index, 0, -1)) do
        local session = load(id, realm)
        if not session then
            redis.call('ZREM', index, id)
        elseif is_alive(session, realm) then
            found[#found + 1] = {id, session}
        elseif prune and now >= session[EXPIRES] then
            redis.call('DEL', prefix .. 'session:' .. id)
            redis.call('ZREM', index, id)
        end
    end
    return found
end
