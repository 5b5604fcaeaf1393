//! An event block taken apart: header and parameters, for every block version. Interprets nothing.

use super::blocks::{Block, kind};
use super::bytes::Fields;
use crate::source::CaptureError;

/// No event has more parameters that matter.
const PARAMETERS_MAX: usize = 32;
/// The event is for the reader's state only, not for people.
const STATE_ONLY: u32 = 1;
/// Old writers count three bytes too many in these (notification, infra).
const TOO_LONG: [u16; 2] = [280, 286];
const TOO_LONG_BY: u32 = 3;

/// An event.
pub(super) struct Event<'a> {
    pub(super) cpu: u16,
    pub(super) at: u64,
    /// Host's thread id; 0 is none.
    pub(super) tid: i64,
    /// Even: a call begins; odd: it returned.
    pub(super) kind: u16,
    /// Not for people.
    pub(super) state_only: bool,
    data: &'a [u8],
    /// Begin of each parameter in `data`, and the end of the last.
    bounds: [u32; PARAMETERS_MAX + 1],
    count: usize,
}

impl<'a> Event<'a> {
    /// Takes `block`, which is an event's, apart.
    pub(super) fn parse(block: &Block<'a>) -> Result<Self, CaptureError> {
        parse(block).ok_or_else(|| {
            CaptureError::damaged(block.offset, "an event's lengths contradict each other")
        })
    }

    /// The call returned.
    pub(super) fn is_exit(&self) -> bool {
        self.kind & 1 == 1
    }

    /// The parameter at `index`; an empty one is none.
    pub(super) fn get(&self, index: usize) -> Option<&'a [u8]> {
        if index >= self.count {
            return None;
        }
        let (from, to) = (*self.bounds.get(index)?, *self.bounds.get(index + 1)?);
        self.data.get(from as usize..to as usize).filter(|bytes| !bytes.is_empty())
    }

    /// Parameters there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// A signed 64-bit parameter.
    pub(super) fn i64(&self, index: usize) -> Option<i64> {
        super::bytes::signed(self.get(index)?)
    }

    /// An unsigned parameter.
    pub(super) fn u64(&self, index: usize) -> Option<u64> {
        super::bytes::unsigned(self.get(index)?)
    }
}

fn parse<'a>(block: &Block<'a>) -> Option<Event<'a>> {
    let mut fields = Fields(block.body);
    let cpu = fields.u16()?;
    let flagged =
        matches!(block.kind, kind::EVENT_FLAGS | kind::EVENT_V2_FLAGS | kind::EVENT_LARGE_FLAGS);
    let flags = if flagged { fields.u32()? } else { 0 };
    let (at, tid) = (fields.u64()?, fields.i64()?);
    let (mut len, kind) = (fields.u32()?, fields.u16()?);
    let old = matches!(block.kind, kind::EVENT | kind::EVENT_OLD | kind::EVENT_FLAGS);
    let large = matches!(block.kind, kind::EVENT_LARGE | kind::EVENT_LARGE_FLAGS);
    if old && TOO_LONG.contains(&kind) {
        len = len.saturating_sub(TOO_LONG_BY);
    }
    let told = (!old).then(|| fields.u32()).map(|count| count.ok_or(())).transpose().ok()?;
    let rest = len.checked_sub(if old { 22 } else { 26 })? as usize;
    let body = fields.take(rest.min(fields.0.len()))?;
    if body.len() < rest {
        return None;
    }
    let width = if large { 4 } else { 2 };
    let count = match told {
        Some(count) => count as usize,
        None => derived_count(body)?,
    };
    let (lens, data) = body.split_at_checked(count.checked_mul(width)?)?;
    let mut bounds = [0; PARAMETERS_MAX + 1];
    let mut end = 0_u32;
    for (index, len) in lens.chunks_exact(width).enumerate() {
        end = end.checked_add(match *len {
            [a, b] => u16::from_le_bytes([a, b]).into(),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => return None,
        })?;
        if let Some(bound) = bounds.get_mut(index + 1) {
            *bound = end;
        }
    }
    if end as usize > data.len() {
        return None;
    }
    let state_only = flags & STATE_ONLY != 0;
    let count = count.min(PARAMETERS_MAX);
    Some(Event { cpu, at, tid, kind, state_only, data, bounds, count })
}

/// Old blocks do not say how many parameters there are, but only one number fits their lengths.
fn derived_count(body: &[u8]) -> Option<usize> {
    let (mut count, mut size) = (0, 0);
    let mut lens = body.chunks_exact(2);
    while size < body.len() {
        let [a, b] = *lens.next()? else { return None };
        size += 2 + usize::from(u16::from_le_bytes([a, b]));
        count += 1;
    }
    (size == body.len()).then_some(count)
}
