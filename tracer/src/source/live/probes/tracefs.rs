//! Reaching tracefs without leaving a trace of it: a node that has it mounted is used as it is,
//! else it is mounted in a mount namespace that only one thread of ours has. And its format files.

use std::{fs, io, path::Path, thread};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Runs `work` where tracefs can be seen.
///
/// # Errors
/// When tracefs is not mounted and cannot be.
pub fn within<T: Send>(work: impl FnOnce(&Path) -> T + Send) -> io::Result<T> {
    if let Some(place) = PLACES.iter().map(Path::new).find(|p| p.join("events").is_dir()) {
        return Ok(work(place));
    }
    let place = Path::new(PLACES[0]);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            mount_privately(place)?;
            Ok(work(place))
        });
        worker.join().map_err(|_| io::Error::other("the thread that mounts tracefs panicked"))?
    })
}

/// The mount ends with the thread that made it.
fn mount_privately(place: &Path) -> io::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tracefs"), place, Some("tracefs"), flags, NONE)?;
    Ok(())
}

/// Reads the format of one tracepoint.
///
/// # Errors
/// When the kernel has no such tracepoint.
pub fn format(tracefs: &Path, category: &str, name: &str) -> io::Result<Format> {
    let path = tracefs.join("events").join(category).join(name).join("format");
    let text = fs::read_to_string(&path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    Ok(Format::parse(&text))
}

/// Where the fields of a tracepoint's record are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    fields: Vec<(String, u16, u16)>,
}

impl Format {
    /// Understands lines like `field:__data_loc char[] path; offset:24; size:4; signed:1;`;
    /// skips the others.
    pub fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(parse_field).collect();
        Self { fields }
    }

    /// Offset in bytes of a field of that size; `None` when there is none.
    pub fn offset(&self, field: &str, size: u16) -> Option<u16> {
        self.fields.iter().find(|(name, _, s)| name == field && *s == size).map(|(_, o, _)| *o)
    }
}

fn parse_field(line: &str) -> Option<(String, u16, u16)> {
    let mut declaration = None;
    let (mut offset, mut size) = (None, None);
    for part in line.trim().split(';') {
        match part.trim().split_once(':') {
            Some(("field", d)) => declaration = Some(d),
            Some(("offset", o)) => offset = o.parse().ok(),
            Some(("size", s)) => size = s.parse().ok(),
            _ => {}
        }
    }
    // `char comm[16]`: the name ends at the bracket.
    let name = declaration?.split_whitespace().last()?.split('[').next()?;
    Some((name.trim_start_matches('*').to_owned(), offset?, size?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MKDIR: &str = "name: cgroup_mkdir
ID: 403
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:int root;\toffset:8;\tsize:4;\tsigned:1;
\tfield:int level;\toffset:12;\tsize:4;\tsigned:1;
\tfield:u64 id;\toffset:16;\tsize:8;\tsigned:0;
\tfield:__data_loc char[] path;\toffset:24;\tsize:4;\tsigned:0;

print fmt: \"root=%d id=%llu level=%d path=%s\", REC->root, REC->id, REC->level, __get_str(path)
";

    #[test]
    fn reads_fields() {
        let format = Format::parse(MKDIR);
        assert_eq!(format.offset("path", 4), Some(24));
        assert_eq!(format.offset("id", 8), Some(16));
        assert_eq!(format.offset("id", 4), None);
        assert_eq!(format.offset("print", 4), None);
    }

    #[test]
    fn reads_arrays_and_pointers() {
        let text = "\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:1;
\tfield:const char * name;\toffset:24;\tsize:8;\tsigned:0;
\tfield:const char *other;\toffset:32;\tsize:8;\tsigned:0;";
        let format = Format::parse(text);
        assert_eq!(format.offset("comm", 16), Some(8));
        assert_eq!(format.offset("name", 8), Some(24));
        assert_eq!(format.offset("other", 8), Some(32));
    }

    #[test]
    fn survives_rubbish() {
        for text in
            ["", ";;;", "field:", "field: ;offset:99999999;size:4;", "\u{0}field:a b;offset:1"]
        {
            assert_eq!(Format::parse(text), Format::default());
        }
    }
}
