//! The text of a configuration file: whatever is wrong is said, with a place.

#![no_main]

use eventloader::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::of_text(text) {
        assert!(error.findings().count() > 0);
        let shown = error.to_string();
        assert!(!shown.trim().is_empty());
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    }
});
