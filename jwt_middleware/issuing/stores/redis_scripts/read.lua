local id, realm = unpack(ARGV)
local session = load(id, realm)
return {now, is_alive(session, realm) and cjson.encode(session)}
