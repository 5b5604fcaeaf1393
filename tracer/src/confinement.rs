//! `--sandbox` for this program's processes: as whom, and what the log says. What it is made of is
//! the library's.

use anyhow::Result;
use nix::unistd::Uid;
use tracer::sandbox::{self, Mode, NOBODY, User};
use tracer::source::live;

/// For the pipeline process: the agent says whom it becomes.
pub(crate) fn enter(mode: Mode, user: Option<User>) -> Result<()> {
    let confined = sandbox::confine(mode, user)?;
    tracing::info!("sandbox of the pipeline process: {confined}");
    Ok(())
}

/// For one process that needs no agent: reads, computes, writes. What it reads and writes is open.
pub(crate) fn enter_alone(mode: Mode) -> Result<()> {
    let somebody = || live::owner().map_or((NOBODY, NOBODY), |owner| owner);
    let user = Uid::effective().is_root().then(somebody).map(|(uid, gid)| User { uid, gid });
    let confined = sandbox::confine(mode, user)?;
    tracing::info!("no privilege is needed to read captures; sandbox: {confined}");
    Ok(())
}
