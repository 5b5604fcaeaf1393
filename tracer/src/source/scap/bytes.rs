//! Little-endian fields out of a block, never past its end. Knows no layout.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A place in a block. Every getter is `None` past the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.array()?))
    }

    /// A text of the metadata: its length, then its bytes.
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }

    pub(super) fn ipv4(&mut self) -> Option<IpAddr> {
        Some(Ipv4Addr::from(self.array::<4>()?).into())
    }

    pub(super) fn ipv6(&mut self) -> Option<IpAddr> {
        Some(Ipv6Addr::from(self.array::<16>()?).into())
    }
}

/// Both ends of a socket, in the order written.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// IPv4 in an IPv6 socket is IPv4; its wildcard then is IPv4's.
pub(super) fn canonical(a: SocketAddr, b: SocketAddr) -> Ends {
    let mapped = |end: SocketAddr| end.is_ipv6() && end.ip().to_canonical().is_ipv4();
    if !(mapped(a) || mapped(b)) {
        return (a, b);
    }
    let plain = |end: SocketAddr| {
        let ip = match end.ip().to_canonical() {
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::UNSPECIFIED.into(),
            ip => ip,
        };
        SocketAddr::new(ip, end.port())
    };
    (plain(a), plain(b))
}

/// A parameter with two ends; `None` for unix sockets and what nobody knows.
pub(super) fn tuple(bytes: &[u8]) -> Option<Ends> {
    let mut fields = Fields(bytes);
    let family = fields.u8()?;
    let mut end = || {
        let ip = match family {
            2 => fields.ipv4()?,
            10 => fields.ipv6()?,
            _ => return None,
        };
        Some(SocketAddr::new(ip, fields.u16()?))
    };
    let source = end()?;
    Some(canonical(source, end()?))
}

/// A parameter with one address.
pub(super) fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let mut fields = Fields(bytes);
    let ip = match fields.u8()? {
        2 => fields.ipv4()?,
        10 => fields.ipv6()?,
        _ => return None,
    };
    Some(SocketAddr::new(ip, fields.u16()?))
}

/// A text parameter without the NUL at its end.
pub(super) fn c_text(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(&[0]).unwrap_or(bytes)
}

/// A signed number of whatever width.
pub(super) fn signed(bytes: &[u8]) -> Option<i64> {
    Some(match *bytes {
        [a] => i8::from_le_bytes([a]).into(),
        [a, b] => i16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]).into(),
        _ => i64::from_le_bytes(bytes.try_into().ok()?),
    })
}

/// An unsigned number of whatever width.
pub(super) fn unsigned(bytes: &[u8]) -> Option<u64> {
    Some(match *bytes {
        [a] => a.into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        _ => u64::from_le_bytes(bytes.try_into().ok()?),
    })
}
