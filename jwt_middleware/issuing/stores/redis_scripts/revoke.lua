local id, realm, name, lifetime, mark = unpack(ARGV)
local session = id ~= '' and load(id, realm)
if session and session[REALM] == realm then return finish(id, session, mark) end
local before = id ~= '' and redis.call('GET', prefix .. 'revoked:' .. name)
return before and tonumber(before) or revoke(name, now + lifetime + RETENTION, mark)
