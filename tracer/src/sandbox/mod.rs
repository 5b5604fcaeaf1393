//! Rights that a process gives up for good: the one that parses foreign bytes keeps none, the agent
//! keeps some capabilities. Decides nothing about when; that is once everything is open, before the
//! first thread.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::str::FromStr;

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

mod calls;
pub mod capabilities;
mod landlocked;
#[cfg(test)]
mod tests;

use capabilities::Capability;

/// Descriptors that a sandboxed process may have from now on: as many as one poll takes.
const FILES_MAX: u64 = 8;
/// User and group of a process that root started for nobody in particular.
pub const NOBODY: u32 = 65_534;

/// `--sandbox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All of it, or refuse to run.
    Strict,
    /// What this kernel and these rights allow.
    #[default]
    Auto,
    /// Nothing.
    Off,
}

impl Mode {
    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Strict, Self::Auto, Self::Off];
        let found = all.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| "one of strict, auto, off".to_owned())
    }
}

/// User and group that a process becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Display for User {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ids = text
            .split_once(':')
            .and_then(|(uid, gid)| Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
        ids.ok_or_else(|| "not UID:GID".to_owned())
    }
}

/// What is in force, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confined {
    /// In words.
    pub in_force: Vec<String>,
    /// What is missing, and why.
    pub lacking: Vec<String>,
}

impl Confined {
    fn note(&mut self, step: Result<String, String>) {
        match step {
            Ok(what) => self.in_force.push(what),
            Err(why) => self.lacking.push(why),
        }
    }

    /// Refuses what lacks something, if it must not.
    fn judged(self, mode: Mode) -> Result<Self, Refused> {
        match mode {
            Mode::Strict if !self.lacking.is_empty() => Err(Refused(self.lacking)),
            _ => Ok(self),
        }
    }
}

/// One line.
impl Display for Confined {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let in_force = if self.in_force.is_empty() { "off" } else { &self.in_force.join(", ") };
        write!(f, "{in_force}")?;
        match self.lacking.is_empty() {
            true => Ok(()),
            false => write!(f, "; not in force: {}", self.lacking.join(", ")),
        }
    }
}

/// `--sandbox strict` where something lacks: what, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--sandbox strict cannot be kept here, it lacks: {}", .0.join(", "))]
pub struct Refused(pub Vec<String>);

/// Gives up all rights that reading, computing and writing to what is open do not need. For a
/// process with one thread. `user` is whom root becomes; nobody else changes.
///
/// # Errors
/// In mode strict when something is not to be had. The process has lost rights even so.
pub fn confine(mode: Mode, user: Option<User>) -> Result<Confined, Refused> {
    let mut done = Confined::default();
    if mode == Mode::Off {
        return Ok(done);
    }
    let (bounding, ambient) = (capabilities::bound(0), capabilities::clear_ambient());
    done.note(become_user(user));
    done.note(no_capability(bounding, ambient));
    done.note(no_new_privileges());
    done.note(undumpable());
    done.note(landlocked::restrict());
    done.note(limits());
    done.note(calls::restrict());
    done.judged(mode)
}

/// Keeps only these capabilities, in this thread and those it starts, and nothing that a program
/// run from here could gain.
///
/// # Errors
/// In mode strict when something is not to be had.
pub fn keep(mode: Mode, kept: &[Capability]) -> Result<Confined, Refused> {
    let mut done = Confined::default();
    if mode == Mode::Off {
        return Ok(done);
    }
    let kept = capabilities::mask(kept);
    let _ = capabilities::clear_ambient();
    // Whoever may not shrink the bounding set gains nothing by it once there are no new privileges.
    let _ = capabilities::bound(kept);
    done.note(
        capabilities::limit(kept)
            .map(|left| format!("capabilities {}", capabilities::names(left)))
            .map_err(|error| format!("fewer capabilities ({error})")),
    );
    done.note(no_new_privileges());
    done.note(undumpable());
    done.judged(mode)
}

fn become_user(user: Option<User>) -> Result<String, String> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    if !uid.is_root() {
        return Ok(format!("user {uid}:{gid}"));
    }
    let why = "CAP_SETUID, CAP_SETGID and CAP_KILL are not all there";
    let Some(User { uid, gid }) = user else {
        return Err(format!("a user that is not root ({why})"));
    };
    let (new_uid, new_gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[])
        .and_then(|()| setresgid(new_gid, new_gid, new_gid))
        .and_then(|()| setresuid(new_uid, new_uid, new_uid))
        .map(|()| format!("user {uid}:{gid}"))
        .map_err(|error| format!("user {uid}:{gid} ({})", error.desc()))
}

/// `bounding`, `ambient`: how those sets were emptied.
fn no_capability(bounding: io::Result<()>, ambient: io::Result<()>) -> Result<String, String> {
    capabilities::limit(0).and(ambient).map_err(|error| format!("no capability ({error})"))?;
    // Empty of what this process has anyway; what stays could come only with a new program.
    Ok(match bounding {
        Ok(()) => "no capability".to_owned(),
        Err(_) => "no capability (bounding set as it was given)".to_owned(),
    })
}

fn no_new_privileges() -> Result<String, String> {
    let done = prctl::set_no_new_privs().map(|()| "no_new_privs".to_owned());
    done.map_err(|error| format!("no_new_privs ({})", error.desc()))
}

/// Nobody of the same user looks into its memory, no core dump keeps what it read.
fn undumpable() -> Result<String, String> {
    let done = prctl::set_dumpable(false).and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0));
    done.map(|()| "no core dump".to_owned())
        .map_err(|error| format!("no core dump ({})", error.desc()))
}

fn limits() -> Result<String, String> {
    let done = setrlimit(Resource::RLIMIT_NPROC, 0, 0)
        .and_then(|()| setrlimit(Resource::RLIMIT_NOFILE, FILES_MAX, FILES_MAX));
    done.map(|()| "no new process or file".to_owned())
        .map_err(|error| format!("limits ({})", error.desc()))
}

/// The last error of a system call made by hand.
fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
