//! `tests::fuzz::wire::tcp` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::wire::tcp(data));
