local subject, realm = unpack(ARGV)
local answer, found = {}, alive(subject, realm, false)
for at = #found, 1, -1 do
    answer[#answer + 1] = found[at][1]
    answer[#answer + 1] = cjson.encode(found[at][2])
end
return answer
