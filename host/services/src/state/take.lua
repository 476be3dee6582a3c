-- Takes from several limits at once, and places of limits of requests at the same time, or nothing. The arithmetic is that of rate.rs, in the numbers of Lua: exact for whole numbers below 2^53.
-- KEYS: a counter for each limit, then the set of each place, then, if it may come twice, the call itself; all in one slot.
-- ARGV: the cost; "1" to take it whatever is left; the number of limits; for how many ms a place is held; for how many ms the answer to this call
-- is kept, or 0; then for each limit: algorithm, amount, window in µs, capacity; then for each place: how many there are, and the name of the one
-- to take.
-- Answers: the time in µs, whether all allow it, the first place that is not free or 0, and for each limit: whether it allows it, and its state
-- before anything was taken.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local cost = tonumber(ARGV[1])
local forced = ARGV[2] == '1'
local all = true
local count = tonumber(ARGV[3])
local last, call = #KEYS, nil
if ARGV[5] ~= '0' then
  call, last = KEYS[last], last - 1
  local before = redis.call('GET', call)
  if before then
    local answer = {}
    for part in string.gmatch(before, '[^\n]+') do answer[#answer + 1] = part end
    return answer
  end
end
local full = 0
local taken = {}
for i = count + 1, last do
  local key = KEYS[i]
  if not taken[key] then
    -- Those of gateways that were not heard of.
    redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now / 1000))
    taken[key] = redis.call('ZCARD', key)
  end
  taken[key] = taken[key] + 1
  if full == 0 and taken[key] > tonumber(ARGV[5 + count * 4 + (i - count - 1) * 2 + 1]) then full = i - count end
end
all = full == 0
local limits = {}
for i = 1, count do
  local key = KEYS[i]
  local at = 5 + (i - 1) * 4
  local limit = {
    bucket = ARGV[at + 1] == 'b', sliding = ARGV[at + 1] == 's',
    amount = tonumber(ARGV[at + 2]), window = tonumber(ARGV[at + 3]), capacity = tonumber(ARGV[at + 4]),
    at = 0, a = 0, b = 0,
  }
  local kept = redis.call('GET', key)
  if kept then
    local t, a, b = string.match(kept, '^(%d+) (%d+) (%d+)$')
    if t then limit.at, limit.a, limit.b = tonumber(t), tonumber(a), tonumber(b) end
  end
  local allowed
  if limit.bucket then
    -- `a` is what was taken and is not refilled yet, in tokens times the window.
    limit.a = math.max(0, limit.a - math.max(0, now - limit.at) * limit.amount)
    limit.at = math.max(limit.at, now)
    allowed = limit.a + cost * limit.window <= limit.capacity * limit.window
  else
    local start = now - now % limit.window
    if start > limit.at then
      if start - limit.at == limit.window then limit.b = limit.a else limit.b = 0 end
      limit.at, limit.a = start, 0
    end
    if limit.sliding then
      local rest = math.min(math.max(0, limit.at + limit.window - now), limit.window)
      allowed = limit.b * rest + (limit.a + cost) * limit.window <= limit.amount * limit.window
    else
      allowed = limit.a + cost <= limit.amount
    end
  end
  limit.allowed = allowed
  all = all and allowed
  limits[i] = limit
end
local function whole(number) return string.format('%.0f', number) end
local answer = { whole(now), all and '1' or '0', whole(full) }
if all then
  for i = count + 1, last do
    redis.call('ZADD', KEYS[i], whole(now / 1000 + tonumber(ARGV[4])), ARGV[5 + count * 4 + (i - count - 1) * 2 + 2])
    redis.call('PEXPIRE', KEYS[i], ARGV[4])
  end
end
for i, limit in ipairs(limits) do
  answer[#answer + 1] = limit.allowed and '1' or '0'
  answer[#answer + 1] = whole(limit.at) .. ' ' .. whole(limit.a) .. ' ' .. whole(limit.b)
  if (all or forced) and cost > 0 then
    local a, lives = limit.a, nil
    if limit.bucket then
      a = a + cost * limit.window
      lives = a / limit.amount
    else
      a = a + cost
      lives = limit.at + limit.window * (limit.sliding and 2 or 1) - now
    end
    local milliseconds = math.min(math.max(math.ceil(lives / 1000), 1), 1e15)
    redis.call('SET', KEYS[i], whole(limit.at) .. ' ' .. whole(a) .. ' ' .. whole(limit.b), 'PX', whole(milliseconds))
  end
end
if call then redis.call('SET', call, table.concat(answer, '\n'), 'PX', ARGV[5]) end
return answer
