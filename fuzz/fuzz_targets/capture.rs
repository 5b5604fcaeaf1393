//! `tests::fuzz::files::capture` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::files::capture(data));
