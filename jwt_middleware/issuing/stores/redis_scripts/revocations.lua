local after, number, mark, limit = unpack(ARGV)
local last = redis.call('HMGET', prefix .. 'head', 'number', 'mark')
local head = (last[1] or '0') .. '.' .. (last[2] or '')
if after == head then return {head, now, '[]'} end
local read = redis.call('ZRANGEBYSCORE', prefix .. 'log', number, number)[1]
if not read or string.sub(read, 1, #mark + 1) ~= mark .. '|' then number = 0 end
local entries = redis.call('ZRANGEBYSCORE', prefix .. 'log', '(' .. number, '+inf', 'LIMIT', 0, limit)
if #entries == tonumber(limit) then
    local entry = entries[#entries]
    head = redis.call('ZSCORE', prefix .. 'log', entry) .. '.' .. string.match(entry, '^[^|]*')
end
-- One text, which clients read much faster than as many. A name has no line break, as it is JSON.
local text = string.gsub('\n' .. table.concat(entries, '\n'), '\n[^|]*|([^|]*)|', ',%1,')
return {head, now, '[' .. string.sub(text, 2) .. ']'}
