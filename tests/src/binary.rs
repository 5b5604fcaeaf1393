//! The built `svctrace`, and processes that never outlive their test.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(path) = std::env::var_os("SVCTRACE_BIN") {
        return path.into();
    }
    // Beside this test binary's directory; cargo brings it (and the lab's own program) up to date.
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().and_then(|deps| deps.parent()).unwrap().to_owned();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "tracer", "--package", "xtask", "--bins"]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    assert!(build.current_dir(root).status().unwrap().success(), "svctrace builds");
    profile.join("svctrace")
});

/// Where `svctrace` is.
pub fn path() -> PathBuf {
    PATH.clone()
}

/// `svctrace` with these words as arguments, nothing of the terminal or its owner in the environment.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.args(words).stdin(Stdio::null());
    for variable in ["NO_COLOR", "CLICOLOR_FORCE", "SVCTRACE_LOG", "KUBECONFIG"] {
        command.env_remove(variable);
    }
    command
}

/// What `svctrace` with these arguments ends with.
pub fn run(words: &[&str]) -> Output {
    command(words).output().unwrap()
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
