//! `tests::fuzz::text::resolv_conf` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::text::resolv_conf(data));
