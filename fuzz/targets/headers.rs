//! What a source says of waiting: `Retry-After`, rate limits, dates.

#![no_main]

use eventloader::sources::http::read_waits;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut values = data.splitn(3, |byte| *byte == b'\n');
    read_waits([(); 3].map(|()| values.next().unwrap_or_default()));
});
