//! `tests::fuzz::wire::ring` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::wire::ring(data));
