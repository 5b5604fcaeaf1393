//! The user who ran us through sudo: what they start runs as them, with their home. Without sudo
//! there is none.

use std::ffi::{CString, OsString};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, getgrouplist};

/// Group of a user about whom nothing is known.
const NO_GROUP: u32 = 65_534;

/// Who ran us through sudo. The user database may not know them: a static binary cannot ask a
/// directory service. They are not root for that.
#[derive(Clone, Debug)]
pub(super) struct Invoker {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    environment: Vec<(&'static str, OsString)>,
    home: Option<PathBuf>,
}

/// User and group ids of the one who ran us through sudo, if that is somebody else than root: what
/// we make for them is theirs.
pub fn owner() -> Option<(u32, u32)> {
    let invoker = Invoker::find(environment).filter(Invoker::is_another)?;
    Some((invoker.uid.as_raw(), invoker.gid.as_raw()))
}

/// A variable of our own environment, if it says something.
#[expect(clippy::disallowed_methods, reason = "the agent may look at the environment")]
pub(super) fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

impl Invoker {
    /// From what sudo put into the environment, which `environment` asks.
    pub(super) fn find(environment: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let number = |name| environment(name)?.to_str()?.parse().ok();
        let uid = Uid::from_raw(number("SUDO_UID")?);
        let user = User::from_uid(uid).ok().flatten();
        let gid = number("SUDO_GID").or(user.as_ref().map(|user| user.gid.as_raw()));
        let gid = Gid::from_raw(gid.unwrap_or(NO_GROUP));
        let groups = user
            .as_ref()
            .and_then(|user| getgrouplist(&CString::new(user.name.as_bytes()).ok()?, gid).ok())
            .unwrap_or_else(|| vec![gid]);
        let home = match &user {
            Some(user) => Some(user.dir.clone()),
            None => environment("SUDO_HOME").map(PathBuf::from),
        };
        let name = user.as_ref().map(|user| user.name.clone().into());
        let name = name.or_else(|| environment("SUDO_USER"));
        let variables = [
            ("HOME", Some(home.clone().unwrap_or_else(|| "/".into()).into())),
            ("USER", name.clone()),
            ("LOGNAME", name),
            ("SHELL", user.map(|user| user.shell.into())),
        ];
        let environment = variables
            .into_iter()
            .filter_map(|(name, value): (_, Option<OsString>)| Some((name, value?)))
            .collect();
        Some(Self { uid, gid, groups, environment, home })
    }

    /// Whether they are somebody else than root.
    pub(super) fn is_another(&self) -> bool {
        !self.uid.is_root()
    }

    /// Their home directory, if known.
    pub(super) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// What differs in their environment from root's.
    pub(super) fn environment(&self) -> &[(&'static str, OsString)] {
        &self.environment
    }

    /// Turns this process into one of theirs. Allocates nothing: may be called between fork and exec.
    pub(super) fn become_user(&self) -> io::Result<()> {
        nix::unistd::setgroups(&self.groups)?;
        nix::unistd::setresgid(self.gid, self.gid, self.gid)?;
        nix::unistd::setresuid(self.uid, self.uid, self.uid)?;
        Ok(())
    }

    /// Program and arguments that run what follows them as this user; `None` for root itself.
    pub(super) fn prefix(&self) -> Option<Vec<String>> {
        let groups: Vec<String> = self.groups.iter().map(ToString::to_string).collect();
        self.is_another().then(|| {
            vec![
                "setpriv".to_owned(),
                format!("--reuid={}", self.uid),
                format!("--regid={}", self.gid),
                format!("--groups={}", groups.join(",")),
                "--".to_owned(),
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sudo(uid: &'static str) -> Option<Invoker> {
        Invoker::find(|name| match name {
            "SUDO_UID" => Some(uid.into()),
            "SUDO_GID" => Some("4000000001".into()),
            "SUDO_USER" => Some("somebody".into()),
            _ => None,
        })
    }

    #[test]
    fn a_user_of_no_database_is_not_root() {
        let invoker = sudo("4000000000").unwrap();
        assert_eq!((invoker.uid.as_raw(), invoker.gid.as_raw()), (4_000_000_000, 4_000_000_001));
        assert_eq!(invoker.groups, [Gid::from_raw(4_000_000_001)]);
        assert!(invoker.environment().contains(&("USER", "somebody".into())));
        assert!(invoker.home().is_none());
        assert_eq!(invoker.prefix().unwrap()[1], "--reuid=4000000000");
    }

    #[test]
    fn root_and_nobody_need_no_prefix() {
        assert!(sudo("0").unwrap().prefix().is_none());
        assert!(sudo("").is_none());
        assert!(Invoker::find(|_| None).is_none());
    }
}
