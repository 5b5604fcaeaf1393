//! A bar on the terminal while a long replay reads its files: bytes read of the files' size. It is
//! drawn where the bytes are read, so nothing behind the source knows of it or of the clock; it never
//! shows in what is not a terminal, and what is printed meanwhile is printed above it.

use std::io::{self, IsTerminal as _, LineWriter, Read, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::files::Input;

/// Who reads faster than that needs no bar.
const AFTER: Duration = Duration::from_secs(2);
/// Longest line kept whole beside the bar.
const LINE: usize = 64 * 1024;

/// The only one of this process.
static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// Takes the bar away when the replay is over, however it ends.
pub(crate) struct Shown(());

/// Prepares a bar for `inputs` if standard error is a terminal; the readers then move it.
pub(crate) fn watch(inputs: Vec<Input>, quiet: bool) -> (Vec<Box<dyn Read + Send>>, Option<Shown>) {
    if quiet || !io::stderr().is_terminal() {
        return (inputs.into_iter().map(|input| input.reader).collect(), None);
    }
    let size = inputs.iter().map(|input| input.size).sum::<Option<u64>>();
    let bar = BAR.get_or_init(|| {
        let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::hidden());
        bar.with_style(style(size.is_some()))
    });
    let start = now();
    let watched =
        |input: Input| Box::new(Watched { reader: input.reader, bar: bar.clone(), start });
    (inputs.into_iter().map(|input| watched(input) as _).collect(), Some(Shown(())))
}

fn style(sized: bool) -> ProgressStyle {
    let template = match sized {
        true => "reading [{bar:30}] {percent}% of {total_bytes}, {eta} to go",
        false => "reading {spinner} {bytes}",
    };
    let plain = ProgressStyle::default_bar();
    let style = plain.clone().template(template).unwrap_or(plain);
    style.progress_chars("=> ").tick_chars("-\\|/ ")
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long the user waits; nothing recorded depends on it"
)]
fn now() -> Instant {
    Instant::now()
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = BAR.get() {
            bar.finish_and_clear();
        }
    }
}

struct Watched {
    reader: Box<dyn Read + Send>,
    bar: ProgressBar,
    start: Instant,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bar.inc(read as u64);
        if self.bar.is_hidden() && now().duration_since(self.start) >= AFTER {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.tick();
        }
        Ok(read)
    }
}

/// `out`, with the bar out of the way while a line is written, if both share a terminal.
pub(crate) fn above(out: io::Stdout) -> Box<dyn Write> {
    match BAR.get() {
        Some(_) if out.is_terminal() => Box::new(LineWriter::with_capacity(LINE, Above(out))),
        _ => Box::new(out),
    }
}

/// Standard error, above the bar.
pub(crate) fn stderr() -> Above<io::Stderr> {
    Above(io::stderr())
}

/// Writes above the bar.
pub(crate) struct Above<W>(W);

impl<W: Write> Write for Above<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(bar) = BAR.get() else { return self.0.write(bytes) };
        bar.suspend(|| {
            self.0.write_all(bytes)?;
            self.0.flush()?;
            Ok(bytes.len())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
