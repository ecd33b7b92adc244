-- The same as rotation.rotate.
local id, realm, presented, grace, idle, access, deadline, reuse, mark, latest = unpack(ARGV)
presented, grace = tonumber(presented), tonumber(grace)
local session = load(id, realm)
-- A client that sends the step again because the connection broke gets the answer of the first time.
if session and string.sub(session[ATTEMPT], 1, #mark) == mark then
    return {string.sub(session[ATTEMPT], #mark + 1), cjson.encode(session)}
end
if now > tonumber(deadline) then return {'late', session and cjson.encode(session)} end
if not is_alive(session, realm) then return recall(mark) or {'gone', false} end
local current, outcome, time_now, offset = session[GENERATION], 'again', steady(latest)
local elapsed = time_now - session[ROTATED]
local is_graced = 0 <= elapsed and elapsed < grace
if presented > current then
    outcome = 'ahead'
    session[GENERATION], session[PARENT], session[USED_UP] = presented + 1, presented, 0
elseif presented == current and is_graced then
    session[USED_UP] = 1
elseif presented == current then
    outcome = 'next'
    session[GENERATION], session[PARENT], session[USED_UP] = current + 1, current, 0
elseif not (presented == session[PARENT] and presented > 0 and is_graced) then
    if presented == session[PARENT] and presented > 0 and reuse == '1' and session[USED_UP] == 0 then
        outcome = 'reissued'
        session[GENERATION] = current + 1
    else
        finish(id, session, mark)
        return remember(mark, {'theft', cjson.encode(session)})
    end
end
if outcome ~= 'again' then session[ROTATED] = time_now end
session[USED] = now
session[EXPIRES] = math.min(now + idle, session[ENDS])
session[ACCESS] = math.max(session[ACCESS], now + access)
session[ATTEMPT] = mark .. outcome
local row = save(id, session)
save_steady(offset, session[ENDS])
return {outcome, row}
