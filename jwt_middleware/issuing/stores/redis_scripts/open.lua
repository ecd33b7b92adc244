local id, realm, subject, idle, lifetime, access, granted, most, mark, latest = unpack(ARGV)
local before = load(id, realm)
-- The step is done twice where its first answer was lost.
if before then return {cjson.encode(before), unpack(recall(mark) or {})} end
local evicted = {}
if redis.call('ZCARD', prefix .. 'subject:' .. subject) >= tonumber(most) then
    local others = alive(subject, realm, true)
    for at = 1, #others - most + 1 do
        evicted[#evicted + 1] = others[at][1]
        evicted[#evicted + 1] = finish(others[at][1], others[at][2], mark)
    end
    if #evicted > 0 then remember(mark, evicted) end
end
local rotated, offset = steady(latest)
local ends = now + lifetime
local row = save(id, {
    LAYOUT, realm, subject, 1, 0, 0, now, rotated, now, ends, math.min(now + idle, ends), now + access, granted, '',
})
save_steady(offset, ends)
return {row, unpack(evicted)}
