//! Names in a DNS message replaced where they stand: every length, pointer, count and number keeps
//! its place, so a cut or malformed message stays what it was. What is not understood becomes zero.

use super::pseudonyms::Pseudonyms;
use super::text::{is_part_of_address, is_reverse};

const HEADER: usize = 12;
/// More labels, over all pointers, than any name of 255 bytes has.
const HOPS_MAX: usize = 256;
/// What stands for a byte of a text.
const FILL: u8 = b'x';

/// RR types (RFC 1035 and later) whose data holds names or addresses.
mod rtype {
    pub(super) const A: u16 = 1;
    pub(super) const SOA: u16 = 6;
    pub(super) const HINFO: u16 = 13;
    pub(super) const MX: u16 = 15;
    pub(super) const TXT: u16 = 16;
    pub(super) const RP: u16 = 17;
    pub(super) const AFSDB: u16 = 18;
    pub(super) const RT: u16 = 21;
    pub(super) const AAAA: u16 = 28;
    pub(super) const SRV: u16 = 33;
    pub(super) const NAPTR: u16 = 35;
    pub(super) const KX: u16 = 36;
    pub(super) const CERT: u16 = 37;
    pub(super) const OPT: u16 = 41;
    pub(super) const RRSIG: u16 = 46;
    pub(super) const NSEC: u16 = 47;
    pub(super) const CSYNC: u16 = 62;
    pub(super) const SVCB: u16 = 64;
    pub(super) const HTTPS: u16 = 65;
    pub(super) const SPF: u16 = 99;
    pub(super) const CAA: u16 = 257;
    /// MD, MF, CNAME, MB, MG, MR, NS, PTR, DNAME, ANAME: nothing but one name.
    pub(super) const ONE_NAME: [u16; 10] = [2, 3, 4, 5, 7, 8, 9, 12, 39, 65305];
    pub(super) const MINFO: u16 = 14;
}

/// The message with pseudonyms, as long as it was, and whether all of it was understood.
pub(super) fn message(bytes: &[u8], names: &mut Pseudonyms) -> (Vec<u8>, bool) {
    let kept = vec![false; bytes.len()];
    let mut walk = Walk { from: bytes, to: vec![0; bytes.len()], kept, at: 0, names };
    let whole = walk.message().is_some() && walk.at == bytes.len();
    (walk.to, whole)
}

/// `None` from any step: the bytes end or make no sense, what follows stays zero.
struct Walk<'a, 'b> {
    from: &'a [u8],
    to: Vec<u8>,
    /// Bytes that hold the message together: a name that points at them does not change them.
    kept: Vec<bool>,
    at: usize,
    names: &'b mut Pseudonyms,
}

impl Walk<'_, '_> {
    fn message(&mut self) -> Option<()> {
        self.keep(HEADER, self.from.len())?;
        let count = |at| self.u16_at(at).map(usize::from);
        let (questions, rest) = (count(4)?, count(6)? + count(8)? + count(10)?);
        for _ in 0..questions {
            self.name(self.from.len())?;
            self.keep(4, self.from.len())?;
        }
        for _ in 0..rest {
            self.resource()?;
        }
        Some(())
    }

    fn resource(&mut self) -> Option<()> {
        self.name(self.from.len())?;
        let fixed = self.at;
        self.keep(10, self.from.len())?;
        let (rtype, len) = (self.u16_at(fixed)?, self.u16_at(fixed + 8)?);
        let end = self.at + usize::from(len);
        if end > self.from.len() {
            return None;
        }
        // Data that makes no sense costs this record only.
        let _ = self.data(rtype, end);
        self.at = end;
        Some(())
    }

    fn data(&mut self, rtype: u16, end: usize) -> Option<()> {
        let len = end - self.at;
        match rtype {
            rtype::A if len == 4 => self.keep(4, end),
            rtype::AAAA if len == 16 => self.keep(16, end),
            rtype::SOA => {
                self.name(end)?;
                self.name(end)?;
                self.keep(20, end)
            }
            rtype::RP | rtype::MINFO => {
                self.name(end)?;
                self.name(end)
            }
            rtype::MX | rtype::AFSDB | rtype::RT | rtype::KX => {
                self.keep(2, end)?;
                self.name(end)
            }
            rtype::SRV => {
                self.keep(6, end)?;
                self.name(end)
            }
            rtype::NAPTR => {
                self.keep(4, end)?;
                let flags = usize::from(*self.from.get(self.at)?);
                self.keep(1 + flags, end)?;
                self.string(end)?;
                self.string(end)?;
                self.name(end)
            }
            rtype::TXT | rtype::SPF | rtype::HINFO => {
                while self.at < end {
                    self.string(end)?;
                }
                Some(())
            }
            rtype::OPT => self.options(end, option),
            rtype::SVCB | rtype::HTTPS => {
                self.keep(2, end)?;
                self.name(end)?;
                self.options(end, parameter)
            }
            rtype::RRSIG => {
                self.keep(18, end)?;
                self.name(end)
            }
            rtype::NSEC => {
                self.name(end)?;
                self.keep(end - self.at, end)
            }
            rtype::CSYNC => self.keep(len, end),
            rtype::CERT => self.keep(5, end),
            rtype::CAA => {
                self.keep(1, end)?;
                let tag = usize::from(*self.from.get(self.at)?);
                self.keep(1, end)?;
                self.fill(tag, end)?;
                self.fill(end - self.at, end)
            }
            one_name if rtype::ONE_NAME.contains(&one_name) => self.name(end),
            _ => None,
        }
    }

    /// Pairs of a code and a value, 16 bits of length each.
    fn options(&mut self, end: usize, shown: fn(u16, &[u8]) -> Vec<u8>) -> Option<()> {
        while self.at < end {
            let at = self.at;
            self.keep(4, end)?;
            let (code, len) = (self.u16_at(at)?, usize::from(self.u16_at(at + 2)?));
            let value = self.at..self.at + len;
            if value.end > end {
                return None;
            }
            let shown = shown(code, self.from.get(value.clone())?);
            self.to.get_mut(value.clone())?.copy_from_slice(shown.get(..len)?);
            self.at = value.end;
        }
        Some(())
    }

    /// A name, over its pointers. What a pointer leads to is written (again) from the original.
    fn name(&mut self, end: usize) -> Option<()> {
        let mut labels = Vec::new();
        let mut at = self.at;
        let mut start = at;
        let mut jumped = false;
        let mut hops = 0;
        let whole = loop {
            let bound = if jumped { self.from.len() } else { end };
            hops += 1;
            let Some(&byte) = self.from.get(at).filter(|_| at < bound && hops <= HOPS_MAX) else {
                break None;
            };
            self.hold(at, byte);
            let next = match byte {
                0 => break Some(at + 1),
                1..=63 => {
                    let label = at + 1..(at + 1 + usize::from(byte)).min(bound);
                    at = label.end;
                    if label.len() < usize::from(byte) {
                        label.for_each(|at| self.put(at, FILL));
                        break None;
                    }
                    labels.push(label);
                    continue;
                }
                0xc0.. => {
                    let Some(&low) = self.from.get(at + 1).filter(|_| at + 1 < bound) else {
                        break None;
                    };
                    self.hold(at + 1, low);
                    usize::from(byte & 0x3f) << 8 | usize::from(low)
                }
                _ => break None,
            };
            if !jumped {
                self.at = at + 2;
            }
            if next >= start {
                break None; // only backwards, so that it ends
            }
            (at, start, jumped) = (next, next, true);
        };
        let reverse =
            is_reverse(labels.iter().rev().map(|l| self.from.get(l.clone()).unwrap_or_default()));
        for range in labels {
            let label = self.from.get(range.clone())?;
            let pseudonym = match reverse && is_part_of_address(label) {
                true => label.to_vec(),
                false => self.names.label(label),
            };
            for (at, byte) in range.zip(pseudonym) {
                self.put(at, byte);
            }
        }
        let behind = whole?;
        if !jumped {
            self.at = behind;
        }
        Some(())
    }

    /// A character-string: its length stays.
    fn string(&mut self, end: usize) -> Option<()> {
        let len = usize::from(*self.from.get(self.at)?);
        self.keep(1, end)?;
        self.fill(len, end)
    }

    fn keep(&mut self, len: usize, end: usize) -> Option<()> {
        let range = self.at..(self.at + len).min(end).min(self.from.len());
        let (from, to) = (self.from.get(range.clone())?, self.to.get_mut(range.clone())?);
        to.copy_from_slice(from);
        self.kept.get_mut(range.clone())?.fill(true);
        self.at = range.end;
        (range.len() == len).then_some(())
    }

    fn fill(&mut self, len: usize, end: usize) -> Option<()> {
        let range = self.at..(self.at + len).min(end).min(self.from.len());
        self.to.get_mut(range.clone())?.fill(FILL);
        self.at = range.end;
        (range.len() == len).then_some(())
    }

    /// Writes a byte of a name.
    fn put(&mut self, at: usize, byte: u8) {
        if let (Some(to), Some(false)) = (self.to.get_mut(at), self.kept.get(at)) {
            *to = byte;
        }
    }

    /// Writes a byte that has to stay.
    fn hold(&mut self, at: usize, byte: u8) {
        if let (Some(to), Some(kept)) = (self.to.get_mut(at), self.kept.get_mut(at)) {
            (*to, *kept) = (byte, true);
        }
    }

    fn u16_at(&self, at: usize) -> Option<u16> {
        let bytes = self.from.get(at..at + 2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// An EDNS option's value: numbers and addresses stay; cookies, server ids, texts and the unknown go.
fn option(code: u16, value: &[u8]) -> Vec<u8> {
    const CLIENT_SUBNET: u16 = 8;
    const EXPIRE: u16 = 9;
    const KEEPALIVE: u16 = 11;
    const EXTENDED_ERROR: u16 = 15;
    match code {
        5..=7 | CLIENT_SUBNET | EXPIRE | KEEPALIVE => value.to_vec(),
        EXTENDED_ERROR => {
            let texts = value.iter().skip(2).map(|_| FILL);
            value.iter().take(2).copied().chain(texts).collect()
        }
        _ => vec![0; value.len()],
    }
}

/// A SvcParam's value (RFC 9460): lists of keys, ports and addresses stay, protocol ids if they are
/// common ones.
fn parameter(key: u16, value: &[u8]) -> Vec<u8> {
    const MANDATORY: u16 = 0;
    const ALPN: u16 = 1;
    const PORT: u16 = 3;
    const IPV4_HINT: u16 = 4;
    const IPV6_HINT: u16 = 6;
    match key {
        ALPN => protocols(value),
        MANDATORY | PORT | IPV4_HINT | IPV6_HINT => value.to_vec(),
        _ => vec![0; value.len()],
    }
}

fn protocols(value: &[u8]) -> Vec<u8> {
    const COMMON: [&[u8]; 6] = [b"h2", b"h3", b"http/1.1", b"dot", b"doq", b"h2c"];
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((len, after)) = rest.split_first() {
        let (id, after) = after.split_at_checked(usize::from(*len)).unwrap_or((after, &[]));
        out.push(*len);
        match COMMON.contains(&id) {
            true => out.extend(id),
            false => out.extend(id.iter().map(|_| FILL)),
        }
        rest = after;
    }
    out
}
