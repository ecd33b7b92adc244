local subject, realm, mark = unpack(ARGV)
local answer = recall(mark)
if answer then return answer end
answer = {}
for _, one in ipairs(alive(subject, realm, false)) do
    answer[#answer + 1] = one[1]
    answer[#answer + 1] = finish(one[1], one[2], mark)
end
return #answer > 0 and remember(mark, answer) or answer
