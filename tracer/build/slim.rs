//! Takes the debug information out of a compiled eBPF object: five sixths of it, which no loader reads.
//! The type information (BTF) that was made of it stays. Knows little-endian ELF64 and no more of it
//! than that takes.

use std::ops::Range;

/// Offsets of fields in the file's header and in a section's (elf.h).
const SECTIONS: Range<usize> = 0x28..0x30;
const SECTION_COUNT: Range<usize> = 0x3c..0x3e;
const NAMES: Range<usize> = 0x3e..0x40;
/// Either header.
const HEADER: usize = 0x40;
const NAME: Range<usize> = 0..4;
const KIND: Range<usize> = 4..8;
const OFFSET: Range<usize> = 24..32;
const SIZE: Range<usize> = 32..40;
const ALIGNMENT: Range<usize> = 48..56;
/// Kinds of sections: one with symbols, one without bytes.
const SYMBOLS: u64 = 2;
const EMPTY: u64 = 8;
/// A symbol, and the number of its section there.
const SYMBOL: usize = 24;
const SYMBOL_SECTION: Range<usize> = 6..8;

/// The object without its debug information; `None` when it is not understood. Sections keep their
/// numbers: those taken out become headers of nothing.
pub(crate) fn without_debug_info(object: &[u8]) -> Option<Vec<u8>> {
    if !object.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let mut out = object.get(..HEADER)?.to_vec();
    let table = object.get(number(object, SECTIONS)?..)?;
    let headers: Vec<&[u8]> =
        table.chunks_exact(HEADER).take(number(object, SECTION_COUNT)?).collect();
    let names = content(object, headers.get(number(object, NAMES)?)?)?;
    let is_debug = |header: &[u8]| {
        let name = names.get(number(header, NAME)?..)?;
        Some([&b".debug_"[..], b".rel.debug_"].iter().any(|start| name.starts_with(start)))
    };
    let gone = headers.iter().map(|header| is_debug(header)).collect::<Option<Vec<bool>>>()?;
    let mut kept = Vec::new();
    for (header, debug) in headers.iter().zip(&gone) {
        let mut header = header.to_vec();
        if *debug {
            header.fill(0);
        } else if number(&header, KIND)? as u64 != EMPTY {
            let mut bytes = content(object, &header)?.to_vec();
            if number(&header, KIND)? as u64 == SYMBOLS {
                forget(&mut bytes, &gone)?;
            }
            out.resize(out.len().next_multiple_of(number(&header, ALIGNMENT)?.max(1)), 0);
            put(&mut header, OFFSET, out.len());
            out.append(&mut bytes);
        }
        kept.extend(header);
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let place = out.len();
    put(&mut out, SECTIONS, place);
    out.append(&mut kept);
    Some(out)
}

/// Symbols of sections that are gone become symbols of nothing.
fn forget(symbols: &mut [u8], gone: &[bool]) -> Option<()> {
    for symbol in symbols.chunks_exact_mut(SYMBOL) {
        // Numbers above all sections have meanings of their own.
        if gone.get(number(symbol, SYMBOL_SECTION)?).is_some_and(|gone| *gone) {
            symbol.fill(0);
        }
    }
    Some(())
}

fn content<'a>(object: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    object.get(number(header, OFFSET)?..)?.get(..number(header, SIZE)?)
}

fn number(bytes: &[u8], at: Range<usize>) -> Option<usize> {
    let field = bytes.get(at)?;
    usize::try_from(field.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte))).ok()
}

fn put(bytes: &mut [u8], at: Range<usize>, value: usize) {
    let length = at.len();
    bytes[at].copy_from_slice(&value.to_le_bytes()[..length]);
}
