//! A scap file made by hand, in blocks of any version. The tracer's own tests read this file, too.

use std::net::SocketAddr;

/// Of the one container.
pub(crate) const ID: &str = "b3a718d8b3397b08d58aa2b406db332c28b01e99f46ff23007243f53c266fe2f";
/// When it all begins, in nanoseconds.
pub(crate) const T0: u64 = 1_481_211_698_000_000_000;

/// Blocks one behind the other.
#[derive(Clone, Default)]
pub(crate) struct File(pub(crate) Vec<u8>);

/// Text behind its length.
pub(crate) fn text(text: &[u8]) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_le_bytes(), text].concat()
}

impl File {
    /// Section and machine.
    pub(crate) fn new() -> Self {
        let mut file = Self::default();
        let mut body = 0x1A2B_3C4D_u32.to_le_bytes().to_vec();
        body.extend([1, 0, 2, 0]);
        body.extend([0xff; 8]);
        file.block(0x0A0D_0D0A, &body);
        let mut machine = 2_u32.to_le_bytes().to_vec();
        machine.extend([0; 16]);
        machine.extend(b"host-1");
        machine.resize(180, 0);
        file.block(0x201, &machine);
        file
    }

    /// Returns where it begins.
    pub(crate) fn block(&mut self, kind: u32, body: &[u8]) -> usize {
        let len = u32::try_from(body.len().next_multiple_of(4) + 12).unwrap();
        let at = self.0.len();
        self.0.extend([kind.to_le_bytes(), len.to_le_bytes()].concat());
        self.0.extend(body);
        self.0.resize(at + len as usize - 4, 0);
        self.0.extend(len.to_le_bytes());
        at
    }

    /// Threads (tid, pid, name), all in one container.
    pub(crate) fn processes(&mut self, (kind, version): (u32, u8), threads: &[(i64, i64, &str)]) {
        let mut list = Vec::new();
        for (tid, pid, comm) in threads {
            let mut entry = Vec::new();
            for number in [*tid, *pid, 1].iter().chain(
                [&7; 2][..match version {
                    0..=5 => 0,
                    6 | 7 => 1,
                    _ => 2,
                }]
                    .iter()
                    .copied(),
            ) {
                entry.extend(number.to_le_bytes());
            }
            entry.extend(text(comm.as_bytes()));
            entry.extend(text(b"/usr/bin/exe"));
            if version >= 7 {
                entry.extend(text(b"/usr/bin/exe"));
            }
            entry.extend(text(b"--password\0hunter2\0"));
            entry.extend(text(b"/"));
            entry.extend(1024_i64.to_le_bytes());
            entry.extend([0; 12]);
            if version >= 2 {
                entry.extend([0; 28]);
            }
            if version >= 3 {
                entry.extend(text(b"SECRET=1\0"));
            }
            if version >= 4 {
                entry.extend([tid.to_le_bytes(), pid.to_le_bytes()].concat());
                entry.extend(text(format!("cpu=/docker/{ID}\0memory=/\0").as_bytes()));
            }
            if version >= 5 {
                entry.extend(text(b"/"));
            }
            if version >= 9 {
                entry.extend([9; 11]); // a tail of the future
                list.extend(u32::try_from(entry.len() + 4).unwrap().to_le_bytes());
            }
            list.extend(entry);
        }
        self.block(kind, &list);
    }

    /// An event in a block of this kind, by a thread, so many nanoseconds after the beginning. Returns
    /// where it begins.
    pub(crate) fn event(
        &mut self,
        kind: u32,
        at: u64,
        tid: i64,
        event: u16,
        parameters: &[&[u8]],
    ) -> usize {
        self.flagged(kind, 0, at, tid, event, parameters)
    }

    /// The same with flags, where the kind of block has any.
    pub(crate) fn flagged(
        &mut self,
        kind: u32,
        flags: u32,
        at: u64,
        tid: i64,
        event: u16,
        parameters: &[&[u8]],
    ) -> usize {
        let old = matches!(kind, 0x204 | 0x8010_ABCD | 0x208);
        let large = matches!(kind, 0x221 | 0x222);
        let mut rest = Vec::new();
        for parameter in parameters {
            let len = u32::try_from(parameter.len()).unwrap().to_le_bytes();
            rest.extend(&len[..if large { 4 } else { 2 }]);
        }
        rest.extend(parameters.concat());
        let mut body = 1_u16.to_le_bytes().to_vec();
        if matches!(kind, 0x208 | 0x217 | 0x222) {
            body.extend(flags.to_le_bytes());
        }
        body.extend((T0 + at).to_le_bytes());
        body.extend(tid.to_le_bytes());
        let header = if old { 22 } else { 26 };
        body.extend(u32::try_from(header + rest.len()).unwrap().to_le_bytes());
        body.extend(event.to_le_bytes());
        if !old {
            body.extend(u32::try_from(parameters.len()).unwrap().to_le_bytes());
        }
        body.extend(rest);
        self.block(kind, &body)
    }
}

/// A number of eight bytes.
pub(crate) fn n(number: i64) -> [u8; 8] {
    number.to_le_bytes()
}

/// A number of four bytes.
pub(crate) fn w(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

/// Two IPv4 ends.
pub(crate) fn ends(from: &str, to: &str) -> Vec<u8> {
    let mut bytes = vec![2];
    for end in [from, to] {
        let SocketAddr::V4(end) = end.parse().unwrap() else { panic!("IPv4 only") };
        bytes.extend(end.ip().octets());
        bytes.extend(end.port().to_le_bytes());
    }
    bytes
}
