//! svctrace's own log, on standard error. Results are none of its business.

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use crate::progress;

/// Starts it at this level; `SVCTRACE_LOG` overrides, module by module.
pub(crate) fn start(verbose: u8, quiet: bool) -> Result<()> {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let builder = EnvFilter::builder().with_env_var("SVCTRACE_LOG");
    let filter = builder.with_default_directive(level.parse()?).from_env()?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(progress::stderr)
        .without_time()
        .init();
    Ok(())
}
