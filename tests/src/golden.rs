//! Expected output in files: compared, or rewritten under `BLESS=1`. Normalises nothing.

use std::path::Path;

/// Compares `actual` with `golden/NAME`.
pub fn check(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if expected == actual {
        return;
    }
    let differs = expected.lines().zip(actual.lines()).position(|(old, new)| old != new);
    let at = differs.unwrap_or_else(|| expected.lines().count().min(actual.lines().count()));
    let line = |text: &str| text.lines().nth(at).unwrap_or("(nothing)").to_owned();
    panic!(
        "{name} differs from line {}; BLESS=1 rewrites it\n  was {}\n  is  {}",
        at + 1,
        line(&expected),
        line(actual)
    );
}
