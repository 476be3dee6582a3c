//! Heads of HTTP/1, as they are on the wire.

use sluice::http1::Limits;

pub(crate) const LIMITS: Limits = Limits { bytes: 64 * 1024, fields: 100 };

pub(crate) const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

pub(crate) const TOOL: &[u8] =
    b"GET /api/users/4711?full=1 HTTP/1.1\r\nHost: api.example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

pub(crate) const BROWSER: &[u8] = b"GET /shop/items/4711/reviews?page=2&sort=date HTTP/1.1\r\n\
Host: www.example.org\r\n\
Connection: keep-alive\r\n\
sec-ch-ua: \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\n\
sec-ch-ua-mobile: ?0\r\n\
sec-ch-ua-platform: \"Linux\"\r\n\
Upgrade-Insecure-Requests: 1\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-Dest: document\r\n\
Referer: https://www.example.org/shop/items/4711\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Cookie: session=5f3a9c1e7b2d4f60; theme=dark; consent=1730368800\r\n\r\n";

pub(crate) const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Server: origin\r\n\
Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
Content-Type: application/json; charset=utf-8\r\n\
Content-Length: 1024\r\n\
Cache-Control: max-age=60\r\n\
ETag: \"5f3a9c1e7b2d4f60\"\r\n\
Vary: accept-encoding\r\n\r\n";
