//! `tests::fuzz::files::scap` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::files::scap(data));
