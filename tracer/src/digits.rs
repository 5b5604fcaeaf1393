//! Instants and addresses as text, as the standard's and the usual way to write them has it, but
//! without a formatter: every line of output has several.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Serializer;

/// Text of at most 30 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short {
    bytes: [u8; 30],
    len: usize,
}

impl Short {
    /// What it holds.
    pub(crate) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    fn push(&mut self, text: &[u8]) {
        let place = self.bytes.get_mut(self.len..).and_then(|rest| rest.get_mut(..text.len()));
        if let Some(place) = place {
            place.copy_from_slice(text);
            self.len += text.len();
        }
    }

    /// A part of an IPv4 address and a dot behind it.
    fn push_part(&mut self, part: u8) {
        let (text, len) = PARTS[usize::from(part)];
        let rest = self.bytes.get_mut(self.len..);
        if let Some(place) = rest.and_then(|rest| rest.first_chunk_mut()) {
            *place = text;
            self.len += usize::from(len);
        }
    }
}

/// What an IPv4 address has, with a dot behind each, and how long that is.
static PARTS: [([u8; 4], u8); 256] = {
    let mut parts = [([b'.'; 4], 0); 256];
    let mut n = 0;
    while n < parts.len() {
        let digits = [n / 100, n / 10 % 10, n % 10];
        let (text, len) = &mut parts[n];
        let mut at = (n < 100) as usize + (n < 10) as usize;
        while at < digits.len() {
            text[*len as usize] = b'0' + digits[at] as u8;
            *len += 1;
            at += 1;
        }
        *len += 1;
        n += 1;
    }
    parts
};

fn digit(value: u64) -> u8 {
    b'0' + u8::try_from(value % 10).unwrap_or_default()
}

/// Nanoseconds since the Unix epoch as RFC 3339 in UTC with nine digits after the second. All of 64
/// bits end in 2554.
pub(crate) fn instant(ns: u64) -> Short {
    let (seconds, ns) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(day);
    let mut bytes = *b"0000-00-00T00:00:00.000000000Z";
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    for (from, to, value) in [
        (0, 4, year),
        (5, 7, month),
        (8, 10, day),
        (11, 13, hour),
        (14, 16, minute),
        (17, 19, second),
        (20, 29, ns),
    ] {
        let mut rest = value;
        for place in bytes.get_mut(from..to).into_iter().flatten().rev() {
            *place = digit(rest);
            rest /= 10;
        }
    }
    Short { bytes, len: bytes.len() }
}

/// Year, month and day of a day counted from 1970-01-01. Leap days come last in years that begin in
/// March.
fn date(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468; // from 0000-03-01
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let first = (153 * month + 2) / 5;
    let (year, month) = (era * 400 + year, if month < 10 { month + 3 } else { month - 9 });
    (year + u64::from(month <= 2), month, day - first + 1)
}

/// As `10.0.0.1`.
pub(crate) fn ipv4(ip: Ipv4Addr) -> Short {
    let mut text = Short { bytes: [0; 30], len: 0 };
    push_ipv4(&mut text, ip);
    text
}

fn push_ipv4(text: &mut Short, ip: Ipv4Addr) {
    ip.octets().into_iter().for_each(|part| text.push_part(part));
    text.len -= 1;
}

/// For serde: an address as its `Display` has it.
pub(crate) fn address<S: Serializer>(
    address: &SocketAddr,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let SocketAddr::V4(v4) = address else { return serializer.collect_str(address) };
    let mut text = Short { bytes: [0; 30], len: 0 };
    push_ipv4(&mut text, *v4.ip());
    text.push(b":");
    text.push(itoa::Buffer::new().format(v4.port()).as_bytes());
    serializer.serialize_str(text.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(at: SocketAddr) -> String {
        let mut json = serde_json::Serializer::new(Vec::new());
        address(&at, &mut json).unwrap();
        serde_json::from_slice(&json.into_inner()).unwrap()
    }

    proptest! {
        #[test]
        fn instants(ns: u64) {
            let known = jiff::Timestamp::from_nanosecond(ns.into()).unwrap();
            prop_assert_eq!(instant(ns).as_str().to_owned(), format!("{known:.9}"));
        }

        #[test]
        fn days(day in 0u64..213_503) {
            let ns = day * 86_400_000_000_000;
            let known = jiff::Timestamp::from_nanosecond(ns.into()).unwrap();
            prop_assert_eq!(instant(ns).as_str().to_owned(), format!("{known:.9}"));
        }

        #[test]
        fn addresses(ip: u32, v6: u128, port: u16) {
            let ip = Ipv4Addr::from(ip);
            prop_assert_eq!(ipv4(ip).as_str().to_owned(), ip.to_string());
            for at in [SocketAddr::from((ip, port)), SocketAddr::from((std::net::Ipv6Addr::from(v6), port))] {
                prop_assert_eq!(told(at), at.to_string());
            }
        }
    }

    #[test]
    fn the_ends() {
        assert_eq!(instant(0).as_str(), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(instant(u64::MAX).as_str(), "2554-07-21T23:34:33.709551615Z");
        assert_eq!(told(([0, 9, 10, 255], 0).into()), "0.9.10.255:0");
        assert_eq!(told(([100, 99, 101, 1], 65_535).into()), "100.99.101.1:65535");
    }
}
