//! Figures in plain words, the same in findings and on every line for people. Pure functions.

/// A duration as people say it: three figures that matter, one unit.
pub fn duration(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0 => "0 ms".into(),
        1..100_000 => format!("{:.2} ms", (value / 1e6).max(0.01)),
        100_000..9_950_000 => format!("{:.1} ms", value / 1e6),
        9_950_000..999_500_000 => format!("{:.0} ms", value / 1e6),
        999_500_000..9_995_000_000 => format!("{:.2} s", value / 1e9),
        9_995_000_000..120_000_000_000 => format!("{:.1} s", value / 1e9),
        120_000_000_000..7_200_000_000_000 => {
            format!("{} min {} s", ns / 60_000_000_000, ns / 1_000_000_000 % 60)
        }
        _ => format!("{} h {} min", ns / 3_600_000_000_000, ns / 60_000_000_000 % 60),
    }
}

/// `3 queries`, `1 query`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_speech() {
        let said = |ns| duration(ns);
        assert_eq!(said(0), "0 ms");
        assert_eq!(said(1), "0.01 ms");
        assert_eq!(said(60_000), "0.06 ms");
        assert_eq!(said(400_000), "0.4 ms");
        assert_eq!(said(2_180_000), "2.2 ms");
        assert_eq!(said(312_400_000), "312 ms");
        assert_eq!(said(999_600_000), "1.00 s");
        assert_eq!(said(8_015_000_000), "8.02 s");
        assert_eq!(said(9_996_000_000), "10.0 s");
        assert_eq!(said(10_010_000_000), "10.0 s");
        assert_eq!(said(125_000_000_000), "2 min 5 s");
        assert_eq!(said(7_260_000_000_000), "2 h 1 min");
    }
}
