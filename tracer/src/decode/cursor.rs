//! Reads native-endian fields from a record's body, never past its end. Knows no record kind's
//! layout.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tracer_common::bodies::{AF_INET, AF_INET6};

use super::DecodeError;
use crate::record::RecordKind;

/// A place in a body.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    kind: RecordKind,
    len: usize,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(kind: RecordKind, body: &'a [u8]) -> Self {
        Self { kind, len: body.len(), rest: body }
    }

    /// The next `count` bytes.
    pub(super) fn bytes(
        &mut self,
        count: usize,
        field: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Short {
            kind: self.kind,
            field,
            len: self.len,
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let short = DecodeError::Short { kind: self.kind, field, len: self.len };
        self.bytes(N, field)?.try_into().map_err(|_| short)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_ne_bytes(self.array(field)?))
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_ne_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_ne_bytes(self.array(field)?))
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        Ok(i32::from_ne_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_ne_bytes(self.array(field)?))
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        Ok(i64::from_ne_bytes(self.array(field)?))
    }

    /// A length field and a size in memory agree on every platform we run on.
    pub(super) fn length(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let value = self.u32(field)?;
        usize::try_from(value).map_err(|_| self.field_error(field, value.to_string()))
    }

    /// A `bodies::Address`; IPv4 mapped into IPv6 comes out as IPv4.
    pub(super) fn address(
        &mut self,
        field: &'static str,
    ) -> Result<Option<SocketAddr>, DecodeError> {
        let family = self.u16(field)?;
        let port = self.u16(field)?;
        let addr: [u8; 16] = self.array(field)?;
        let ip = match family {
            AF_INET => IpAddr::V4(Ipv4Addr::new(addr[0], addr[1], addr[2], addr[3])),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(addr)),
            _ => return Ok(None),
        };
        Ok(Some(SocketAddr::new(ip.to_canonical(), port)))
    }

    /// An address that has to be there.
    pub(super) fn some_address(&mut self, field: &'static str) -> Result<SocketAddr, DecodeError> {
        self.address(field)?.ok_or_else(|| self.field_error(field, "no IP address".to_owned()))
    }

    pub(super) fn field_error(&self, field: &'static str, why: String) -> DecodeError {
        DecodeError::Field { kind: self.kind, field, why }
    }
}
