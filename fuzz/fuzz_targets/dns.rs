//! `tests::fuzz::wire::dns` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::wire::dns(data));
