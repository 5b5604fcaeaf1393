//! Where the credentials for the Kubernetes API come from: the user's kubeconfig, root's own, or the
//! service account. Speaks to no server.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig};

use crate::source::live::invoker::Invoker;
use crate::source::live::kubeconfig::{self, read};

/// Time for a connection to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Where to find the credentials.
#[derive(Clone, Debug, Default)]
pub(in crate::source::live) struct Access {
    /// A kubeconfig that the user named.
    pub(in crate::source::live) kubeconfig: Option<PathBuf>,
    /// A context in it.
    pub(in crate::source::live) context: Option<String>,
    /// The files that `KUBECONFIG` names; the first to say something wins.
    pub(in crate::source::live) environment: Vec<PathBuf>,
    /// The user who ran us through sudo: their kubeconfig comes first, and programs that a
    /// kubeconfig names run as them.
    pub(in crate::source::live) invoker: Option<Invoker>,
    /// Our own home.
    pub(in crate::source::live) home: Option<PathBuf>,
}

/// The first there are; `None` without any.
pub(in crate::source::live) async fn config(access: &Access) -> anyhow::Result<Option<Config>> {
    let mut found = find(access).await?;
    if let Some(config) = &mut found {
        config.connect_timeout = Some(CONNECT_WITHIN);
        // The pauses are ours: kube would ask eight times before it says that the server is busy.
        config.default_retry = false;
        // Without TLS nobody needs the system's certificates, which a bare node may not have.
        if config.cluster_url.scheme_str() == Some("http") {
            config.root_cert.get_or_insert_default();
        }
    }
    Ok(found)
}

async fn find(access: &Access) -> anyhow::Result<Option<Config>> {
    let options = KubeConfigOptions { context: access.context.clone(), ..Default::default() };
    match kubeconfig(access)? {
        Some(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map(Some)
            .context("cannot use the kubeconfig"),
        None if access.context.is_some() => Err(anyhow!("--context needs a kubeconfig")),
        None => match Config::incluster() {
            Ok(config) => Ok(Some(config)),
            // Not in a pod, or in one without a service account.
            Err(InClusterError::ReadEnvironmentVariable(_)) => Ok(None),
            Err(InClusterError::ReadDefaultNamespace(why))
                if why.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context("cannot use the service account"),
        },
    }
}

/// The first kubeconfig there is. Only root's own may name programs that run as root.
fn kubeconfig(access: &Access) -> anyhow::Result<Option<Kubeconfig>> {
    let in_home = |home: &Path| Some(home.join(".kube/config")).filter(|path| path.is_file());
    let invoker = access.invoker.as_ref();
    let theirs = invoker.and_then(|invoker| in_home(invoker.home()?));
    let own = access.home.as_deref().and_then(in_home);
    let home = invoker.and_then(Invoker::home).or(access.home.as_deref());
    let found = match (&access.kubeconfig, access.environment.as_slice(), theirs, own) {
        (Some(path), ..) => Some(read(&kubeconfig::at_home(path, home))?),
        (None, paths @ [_, ..], ..) => kubeconfig::merged(paths, home)?,
        (None, [], Some(path), _) => Some(read(&path)?),
        (None, [], None, Some(path)) => return read(&path).map(Some),
        (None, [], None, None) => None,
    };
    Ok(found.map(|kubeconfig| match invoker {
        Some(invoker) => running_as(kubeconfig, invoker),
        None => kubeconfig,
    }))
}

/// The same credentials, but the programs that fetch some of them run as `invoker`.
fn running_as(mut kubeconfig: Kubeconfig, invoker: &Invoker) -> Kubeconfig {
    let Some(prefix) = invoker.prefix() else { return kubeconfig };
    let Some((program, arguments)) = prefix.split_first() else { return kubeconfig };
    for info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        if let Some(exec) = &mut info.exec
            && let Some(command) = exec.command.replace(program.clone())
        {
            let rest = exec.args.take().unwrap_or_default();
            exec.args = Some(arguments.iter().cloned().chain([command]).chain(rest).collect());
            let variable = |(name, value): &(&str, OsString)| {
                HashMap::from([
                    ("name".to_owned(), (*name).to_owned()),
                    ("value".to_owned(), value.to_string_lossy().into_owned()),
                ])
            };
            let theirs = invoker.environment().iter().map(variable);
            exec.env = Some(theirs.chain(exec.env.take().unwrap_or_default()).collect());
        }
        if let Some(provider) = &mut info.auth_provider
            && let Some(command) = provider.config.remove("cmd-path")
        {
            let rest = provider.config.remove("cmd-args").unwrap_or_default();
            let words = format!("{} {command} {rest}", arguments.join(" "));
            provider.config.insert("cmd-args".into(), words);
            provider.config.insert("cmd-path".into(), program.clone());
        }
    }
    kubeconfig
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_a_kubeconfig_run_as_the_invoker() {
        let text = "users: [
            {name: a, user: {exec: {command: aws, args: [eks], env: [{name: HOME, value: /x}]}}},
            {name: b, user: {auth-provider: {name: gcp, config: {cmd-path: gcloud, cmd-args: c}}}},
            {name: c, user: {token: t}}]";
        let invoker = Invoker::find(|name| (name == "SUDO_UID").then(|| "4000000000".into()));
        let changed = running_as(Kubeconfig::from_yaml(text).unwrap(), &invoker.unwrap());
        let infos: Vec<_> = changed.auth_infos.iter().flat_map(|a| &a.auth_info).collect();
        let exec = infos[0].exec.as_ref().unwrap();
        assert_eq!(exec.command.as_deref(), Some("setpriv"));
        let args = exec.args.as_ref().unwrap();
        assert_eq!(args[0], "--reuid=4000000000");
        assert_eq!(args[args.len() - 3..], ["--", "aws", "eks"]);
        // The kubeconfig's own variables come last and win.
        assert_eq!(exec.env.as_ref().unwrap().last().unwrap()["value"], "/x");
        let config = &infos[1].auth_provider.as_ref().unwrap().config;
        assert_eq!(config["cmd-path"], "setpriv");
        assert!(config["cmd-args"].ends_with("-- gcloud c"));
        assert!(infos[2].exec.is_none() && infos[2].auth_provider.is_none());
    }
}
