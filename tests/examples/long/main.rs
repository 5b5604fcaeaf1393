//! Writes long captures for `cargo xtask bench replay`, as a stream: nothing of them is kept in
//! memory. `long pcap FILE MESSAGES | long own FILE SEED ROUNDS | long scap FILE SEED ROUNDS`
#![expect(clippy::unwrap_used, reason = "a generator that fails has made nothing")]

mod own;
mod pcap;
mod scap;

use std::fs::File;
use std::io::BufWriter;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let create = |path: &str| BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    match args.as_slice() {
        ["pcap", file, messages] => pcap::write(create(file), messages.parse().unwrap()),
        ["own", file, seed, rounds] => own::write(create(file), seed, rounds.parse().unwrap()),
        ["scap", file, seed, rounds] => scap::write(create(file), seed, rounds.parse().unwrap()),
        _ => panic!("long pcap FILE MESSAGES | long own|scap FILE SEED ROUNDS"),
    }
}
