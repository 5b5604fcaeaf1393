//! Damage at random but always the same: several bytes changed, pieces repeated, moved, left out, or
//! taken from another seed.

/// A stream of numbers (xorshift64*).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.roll() % n as u64) as usize }
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let from = self.below(len + 1);
        let longest = if self.below(4) == 0 { len } else { 40 };
        from..(from + self.below(longest + 1)).min(len)
    }

    /// `seed` with one to six kinds of damage.
    pub(crate) fn damage(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        const ODD: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'\n', 0x1b, 0xc0];
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            match self.below(8) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = *self.pick(&ODD),
                2 if !bytes.is_empty() => bytes[at] = self.roll() as u8,
                3 => drop(bytes.drain(self.range(bytes.len()))),
                4 => {
                    let piece = bytes[self.range(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
                5 => {
                    let piece = other[self.range(other.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
                6 => {
                    let range = self.range(bytes.len());
                    let odd = *self.pick(&ODD);
                    bytes[range].fill(odd);
                }
                _ => bytes.truncate(self.below(bytes.len() * 2).min(bytes.len())),
            }
        }
        bytes.truncate(128 << 10);
        bytes
    }
}
