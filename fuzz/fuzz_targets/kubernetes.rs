//! `tests::fuzz::text::kubernetes` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::text::kubernetes(data));
