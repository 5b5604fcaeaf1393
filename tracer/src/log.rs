//! svctrace's own log, on standard error. Results are none of its business.

use std::io;

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use crate::progress;

/// Starts it at this level; `SVCTRACE_LOG` overrides, module by module.
#[expect(clippy::disallowed_methods, reason = "the log's own variable")]
pub(crate) fn start(verbose: u8, quiet: bool) -> Result<()> {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let builder = EnvFilter::builder().with_env_var("SVCTRACE_LOG");
    let mut filter = builder.with_default_directive(level.parse()?).from_env()?;
    if verbose < 2 && std::env::var_os("SVCTRACE_LOG").is_none() {
        // Says every failed request as an error; what it means is said once, by ourselves.
        filter = filter.add_directive("kube_client=off".parse()?);
    }
    let color = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(progress::stderr)
        .log_internal_errors(false);
    log.with_ansi(color).without_time().init();
    Ok(())
}
