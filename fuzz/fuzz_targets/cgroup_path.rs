//! `tests::fuzz::text::cgroup_path` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::text::cgroup_path(data));
