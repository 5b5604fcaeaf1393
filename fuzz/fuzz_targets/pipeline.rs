//! `tests::fuzz::whole::pipeline` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::whole::pipeline(data));
