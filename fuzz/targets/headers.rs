//! What a source says of waiting: `Retry-After`, rate limits, dates. A `Retry-After` of digits is what it says, whatever
//! stands beside it.

#![no_main]

use std::time::Duration;

use eventloader::sources::http::read_waits;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut values = data.splitn(3, |byte| *byte == b'\n');
    let values = [(); 3].map(|()| values.next().unwrap_or_default());
    let wait = read_waits(values);
    let digits = values[0].trim_ascii();
    if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && is_header(values[0]) {
        let seconds = std::str::from_utf8(digits).unwrap().parse().unwrap_or(u64::from(u32::MAX));
        assert_eq!(wait, Some(Duration::from_secs(seconds)));
    }
});

/// Whether HTTP can carry it.
fn is_header(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || (b' '..=b'~').contains(byte))
}
