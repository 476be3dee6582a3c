-- The policies of the comparison for nginx with Lua: header filters, and a token, a limit and a transformation.
local ffi = require "ffi"
local cjson = require "cjson.safe"
local base64 = require "ngx.base64"
local M = {}

-- OpenSSL's, which nginx has in it.
ffi.cdef [[
const void *EVP_sha256(void);
unsigned char *HMAC(const void *md, const void *key, int key_len, const unsigned char *data, size_t len, unsigned char *out, unsigned int *out_len);
int CRYPTO_memcmp(const void *a, const void *b, size_t len);
typedef struct { double tokens; double at; } bucket_t;
]]
local sha256 = ffi.C.EVP_sha256()
local mac, mac_len = ffi.new("unsigned char[32]"), ffi.new("unsigned int[1]")
local bucket, bucket_size = ffi.new("bucket_t"), ffi.sizeof("bucket_t")
local bucket_at = ffi.typeof("const bucket_t *")

-- The claims of a good token, or nil.
local function verify(token, secret)
  local head, body, signature = token:match("^([%w_-]+)%.([%w_-]+)%.([%w_-]+)$")
  if not head then return end
  local header, raw = cjson.decode(base64.decode_base64url(head) or ""), base64.decode_base64url(signature)
  if type(header) ~= "table" or header.alg ~= "HS256" or not raw or #raw ~= 32 then return end
  ffi.C.HMAC(sha256, secret, #secret, token, #head + 1 + #body, mac, mac_len)
  if ffi.C.CRYPTO_memcmp(mac, raw, 32) ~= 0 then return end
  local claims = cjson.decode(base64.decode_base64url(body) or "")
  if type(claims) == "table" and claims.iss == "bench" and claims.exp and claims.exp > ngx.time() then return claims end
end

-- A token bucket for each key. Reading and writing are two steps, as in lua-resty-limit-traffic.
local function allow(key, rate)
  local limits, now = ngx.shared.limits, ngx.now()
  local before, tokens = limits:get(key), rate
  if type(before) == "string" and #before == bucket_size then
    local was = ffi.cast(bucket_at, before)
    tokens = math.min(rate, tonumber(was.tokens) + (now - tonumber(was.at)) * rate)
  end
  local fine = tokens >= 1
  bucket.tokens, bucket.at = fine and tokens - 1 or tokens, now
  limits:set(key, ffi.string(bucket, bucket_size))
  return fine
end

-- Each filter has functions of its own, as different filters would.
local filters = {}

function M.set_filters(count)
  for i = 1, count do
    local request, response = "x-filter-req-" .. i, "x-filter-resp-" .. i
    filters[i] = {
      request = function() ngx.req.set_header(request, ngx.var.http_x_bench_in) end,
      response = function() ngx.header[response] = "1" end,
    }
  end
end

function M.filter_request()
  for i = 1, #filters do filters[i].request() end
end

function M.filter_response()
  for i = 1, #filters do filters[i].response() end
end

local secret, rate

function M.set_auth(with_secret, with_rate)
  secret, rate = with_secret, with_rate
end

function M.auth_request()
  local given = ngx.var.http_authorization
  local claims = given and given:sub(1, 7) == "Bearer " and verify(given:sub(8), secret)
  if not claims then return ngx.exit(401) end
  if not allow(ngx.var.http_x_api_key or "", rate) then return ngx.exit(429) end
  ngx.req.set_header("x-user", claims.sub)
  ngx.req.clear_header("authorization")
  ngx.req.clear_header("x-remove-me")
end

function M.auth_response()
  ngx.header["x-gw"] = "1"
  ngx.header["x-upstream-secret"] = nil
end

return M
