//! `tests::fuzz::wire::packet` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::wire::packet(data));
