//! Hostile input without a fuzzer: every seed of every fuzz target as it is, cut at each byte, and with
//! a bit flipped in each, with a bound on the memory it may take. Large seeds are sampled, always at the
//! same places. Alone in its program, because it counts every allocation.
#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test")]

mod havoc;
mod memory;

use std::fs;
use std::path::Path;

use tests::fuzz::{TARGETS, Target};

/// Most bytes that one input may make a target hold at once, above its own length: some four times what
/// the seeds take. `capture`: the reader's buffer of 16 MiB, the largest block there may be. What zstd's
/// C code takes for its window, at most 32 MiB, is not counted.
const MEMORY_MAX: [(&str, usize); 15] = [
    ("ring", 1 << 20),
    ("packet", 2 << 20),
    ("dns", 1 << 20),
    ("tcp", 2 << 20),
    ("pcap", 4 << 20),
    ("pcapng", 4 << 20),
    ("scap", 4 << 20),
    ("capture", 24 << 20),
    ("cgroup_path", 1 << 20),
    ("resolv_conf", 1 << 20),
    ("kubernetes", 1 << 20),
    ("context", 1 << 20),
    ("filter", 4 << 20),
    ("redact", 4 << 20),
    ("pipeline", 8 << 20),
];
/// Seeds up to this length are tried at each byte, longer ones at so many places.
const PLACES_MAX: usize = 300;
/// For targets that run everything.
const PLACES_OF_THE_WHOLE: usize = 40;

fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target.name);
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut seeds: Vec<_> =
        files.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    seeds
}

/// Places in `len` bytes, evenly and without a common factor with most record sizes.
fn places(target: &Target, len: usize) -> impl Iterator<Item = usize> {
    let most = match target.name {
        "pipeline" | "redact" => PLACES_OF_THE_WHOLE,
        _ => PLACES_MAX,
    };
    let step = (len / most).max(1) | 1;
    (0..len).step_by(step)
}

/// Runs `input`, and says what it took at most.
fn run(target: &Target, name: &str, what: &str, input: &[u8]) -> usize {
    let before = memory::begin();
    (target.run)(input);
    let most = memory::most_since(before);
    let (_, bound) = MEMORY_MAX.iter().find(|(of, _)| *of == target.name).unwrap();
    assert!(most <= bound + input.len(), "{name} {what}: {most} bytes, at most {bound}");
    most
}

fn each_target(mut damage: impl FnMut(&Target, &str, &[u8]) -> usize) {
    let _alone = memory::alone();
    for target in &TARGETS {
        // What is made once and kept counts for nobody.
        seeds(target).iter().take(1).for_each(|(_, seed)| (target.run)(seed));
        let most = seeds(target).iter().map(|(name, seed)| damage(target, name, seed)).max();
        println!("{:12} {:>8} KiB", target.name, most.unwrap_or_default() >> 10);
    }
}

#[test]
fn seeds_hold_what_the_targets_ask() {
    each_target(|target, name, seed| run(target, name, "as it is", seed));
}

#[test]
fn so_they_do_cut_at_each_byte() {
    each_target(|target, name, seed| {
        let cut = |at| run(target, name, &format!("cut to {at}"), &seed[..at]);
        places(target, seed.len()).map(cut).max().unwrap_or_default()
    });
}

#[test]
fn so_they_do_with_flipped_bits() {
    each_target(|target, name, seed| {
        let flip = |at: usize| {
            let mut damaged = seed.to_vec();
            let mut most = 0;
            for bits in [1 << (at % 8), 0xff] {
                damaged[at] = seed[at] ^ bits;
                most = most.max(run(target, name, &format!("byte {at} ^ {bits:#x}"), &damaged));
            }
            most
        };
        places(target, seed.len()).map(flip).max().unwrap_or_default()
    });
}

/// Each target `rounds` times with damage at random; what fails is written beside the test's program.
fn rounds(rounds: usize) {
    let mut dice = havoc::Dice(0x5eed);
    let mut failed = Vec::new();
    for target in &TARGETS {
        let seeds = seeds(target);
        for _ in 0..rounds {
            let ((name, seed), (_, other)) = (dice.pick(&seeds).clone(), dice.pick(&seeds).clone());
            let input = dice.damage(&seed, &other);
            if std::panic::catch_unwind(|| run(target, &name, "at random", &input)).is_err() {
                let path = std::env::temp_dir().join(format!("{}-{}", target.name, failed.len()));
                fs::write(&path, input).unwrap();
                failed.push(path);
                if failed.len() > 20 {
                    break;
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn so_they_do_with_damage_at_random() {
    let _alone = memory::alone();
    rounds(60);
}

#[test]
#[ignore = "takes long; cargo xtask fuzz does it better"]
fn so_they_do_with_more_of_it() {
    let _alone = memory::alone();
    rounds(5000);
}

#[test]
fn allocations_are_counted() {
    let _alone = memory::alone();
    let before = memory::begin();
    drop(std::hint::black_box(vec![1_u8; 3 << 20]));
    let most = memory::most_since(before);
    assert!((3 << 20..4 << 20).contains(&most), "{most}");
}
