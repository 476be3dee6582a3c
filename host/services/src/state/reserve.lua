-- Reserves a key, where nothing is there.
-- KEYS: one. ARGV: the time to live of the reservation in ms; what the reservation of this call is, which begins with "r".
-- Answers: what is there; nothing, if this call has reserved it, also when it comes twice.
local there = redis.call('GET', KEYS[1])
if there == ARGV[2] then return false end
if there then return there end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
return false
