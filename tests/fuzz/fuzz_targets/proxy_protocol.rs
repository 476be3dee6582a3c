//! PROXY headers: no panic, no dependence on how bytes arrive, a bound, and what is read is written and read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_http::proxy_protocol::{MAX_BYTES, Proxied, Version, read, write};

fuzz_target!(|data: &[u8]| {
    let whole = read(data);
    let first = (0..=data.len()).map(|length| read(&data[..length])).find(|outcome| *outcome != Ok(None));
    assert_eq!(first.unwrap_or(Ok(None)), whole);
    match whole {
        Ok(None) => assert!(data.len() < MAX_BYTES, "waits for a header that can't be accepted"),
        Ok(Some((proxied, length))) => {
            assert!(length <= MAX_BYTES && length <= data.len());
            for version in [Version::V1, Version::V2] {
                let written = write(version, proxied);
                let again = if version == Version::V1 && proxied == Proxied::Unix { Proxied::Own } else { proxied };
                assert_eq!(read(&written), Ok(Some((again, written.len()))));
            }
        }
        Err(_) => {}
    }
});
