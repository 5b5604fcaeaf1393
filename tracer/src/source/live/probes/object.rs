//! The compiled probes, when this build has them.

/// The eBPF object, aligned as its reader needs it; `None` in a build without eBPF toolchain.
#[cfg(not(no_probes))]
pub fn object() -> Option<&'static [u8]> {
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-ebpf")))
}

/// The eBPF object, aligned as its reader needs it; `None` in a build without eBPF toolchain.
#[cfg(no_probes)]
pub fn object() -> Option<&'static [u8]> {
    None
}
