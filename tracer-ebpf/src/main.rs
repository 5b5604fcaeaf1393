//! The probes: programs of the kernel's BPF machine that watch, always allow and never rewrite.
//! They decide nothing beyond "does this belong to a target"; meaning is user space's business.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod emit;
mod filter;
mod maps;
mod probes;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
