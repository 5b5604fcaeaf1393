//! One scap capture many times over: the events again and again in one section, each time later and
//! with new ids for the threads that the capture saw begin. What was there before it stays.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// Event blocks of 2016: u16 cpu, u64 time, u64 thread, u32 length, u16 type, lengths, parameters.
const EVENT: u32 = 0x204;
/// Offsets in an event block.
const TIME: usize = 10;
const THREAD: usize = 18;
const LENGTH: usize = 26;
const TYPE: usize = 30;
const LENGTHS: usize = 32;
/// Returns of clone, fork, vfork and execve in their versions: parameters 3 to 5 are ids.
const BIRTHS: [u16; 19] =
    [13, 15, 155, 157, 173, 183, 185, 215, 217, 219, 221, 223, 225, 227, 231, 283, 289, 293, 331];
/// Threads born in one round have ids this far from those of the next.
const APART: u64 = 30_000;

/// `rounds` times the events of `seed`, as gzip.
pub(crate) fn write(out: impl Write, seed: &str, rounds: u64) {
    let mut capture = Vec::new();
    MultiGzDecoder::new(File::open(seed).unwrap()).read_to_end(&mut capture).unwrap();
    let (metadata, events): (Vec<&[u8]>, Vec<&[u8]>) =
        blocks(&capture).partition(|block| u32_at(block, 0) != EVENT);
    let times = || events.iter().map(|event| u64_at(event, TIME)).filter(|time| *time > 0);
    let length = times().max().unwrap() - times().min().unwrap() + 1_000_000;
    let born: BTreeSet<u64> = events.iter().filter_map(|event| born(event)).collect();
    let mut out = GzEncoder::new(out, Compression::fast());
    for block in metadata {
        out.write_all(block).unwrap();
    }
    let mut shifted = Vec::new();
    for round in 0..rounds {
        for event in &events {
            shifted.clear();
            shifted.extend_from_slice(event);
            shift(&mut shifted, round, length, &born);
            out.write_all(&shifted).unwrap();
        }
    }
    out.finish().unwrap().flush().unwrap();
}

fn blocks(capture: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = capture;
    std::iter::from_fn(move || {
        let length = if rest.is_empty() { return None } else { u32_at(rest, 4) };
        let (block, after) = rest.split_at(length as usize);
        rest = after;
        Some(block)
    })
}

/// The thread that a return of clone in its child says is new.
fn born(event: &[u8]) -> Option<u64> {
    let new = BIRTHS.contains(&u16_at(event, TYPE)) && parameter(event, 0) == Some(0);
    new.then(|| u64_at(event, THREAD))
}

fn shift(event: &mut [u8], round: u64, length: u64, born: &BTreeSet<u64>) {
    let time = u64_at(event, TIME);
    if time > 0 {
        put(event, TIME, time + round * length);
    }
    let moved = |id: u64| if born.contains(&id) { id + round * APART } else { id };
    put(event, THREAD, moved(u64_at(event, THREAD)));
    if BIRTHS.contains(&u16_at(event, TYPE)) {
        for index in [0, 3, 4, 5] {
            if let Some(at) = place(event, index) {
                put(event, at, moved(u64_at(event, at)));
            }
        }
    }
}

fn parameter(event: &[u8], index: usize) -> Option<u64> {
    place(event, index).map(|at| u64_at(event, at))
}

/// Where parameter `index` stands, if it has eight bytes.
fn place(event: &[u8], index: usize) -> Option<usize> {
    let end = TIME + u32_at(event, LENGTH) as usize;
    let (mut count, mut sum) = (0, 0);
    while LENGTHS + 2 * count + sum < end {
        sum += usize::from(u16_at(event, LENGTHS + 2 * count));
        count += 1;
    }
    let mut lengths = (0..count).map(|n| usize::from(u16_at(event, LENGTHS + 2 * n)));
    let at = LENGTHS + 2 * count + lengths.clone().take(index).sum::<usize>();
    (lengths.nth(index) == Some(8)).then_some(at)
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
