//! kubeconfig files as kubectl reads them: several in `KUBECONFIG`, `~`, paths relative to the file.
//! Which file it is to be is not decided here.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kube::config::Kubeconfig;

/// One file.
pub(super) fn read(path: &Path) -> anyhow::Result<Kubeconfig> {
    Kubeconfig::read_from(path).with_context(|| format!("cannot use kubeconfig {}", path.display()))
}

/// The files of `KUBECONFIG` as one, the first to say something wins. As kubectl does: those that do
/// not exist are left out; `None` when that is all of them.
pub(super) fn merged(paths: &[PathBuf], home: Option<&Path>) -> anyhow::Result<Option<Kubeconfig>> {
    let mut all: Option<Kubeconfig> = None;
    for path in paths.iter().map(|path| at_home(path, home)).filter(|path| path.exists()) {
        let next = read(&path)?;
        all = Some(match all {
            Some(all) => {
                all.merge(next).context("the files of KUBECONFIG contradict each other")?
            }
            None => next,
        });
    }
    Ok(all)
}

/// `~/…` where no shell replaced it.
pub(super) fn at_home(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kube::Config;
    use kube::config::KubeConfigOptions;

    use super::*;

    #[test]
    fn several_files_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        let one = file(
            "one",
            "current-context: a
contexts: [{name: a, context: {cluster: c, user: u, namespace: shop}}]
users: [{name: u, user: {tokenFile: token}}]",
        );
        let two = file(
            "two",
            "current-context: b
contexts: [{name: b, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {token: other}}]",
        );
        let missing = folder.path().join("missing");
        let home = Some(folder.path());
        let paths = [one, missing.clone(), PathBuf::from("~/two")];
        let found = merged(&paths, home).unwrap().unwrap();
        assert_eq!(found.current_context.as_deref(), Some("a"));
        // The first file's user wins whole, and its paths are relative to that file.
        let token = file("token", "secret");
        let user = found.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!(user.token_file.as_deref(), token.to_str());
        assert!(user.token.is_none());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let namespace = |context: Option<&str>| {
            let context = context.map(str::to_owned);
            let options = KubeConfigOptions { context, ..Default::default() };
            let config = Config::from_custom_kubeconfig(found.clone(), &options);
            runtime.block_on(config).map(|config| config.default_namespace)
        };
        assert_eq!(namespace(None).unwrap(), "shop");
        assert_eq!(namespace(Some("b")).unwrap(), "default");
        assert!(namespace(Some("none")).is_err());
        assert!(merged(&[missing], home).unwrap().is_none());
        std::fs::write(&two, "not: [a kubeconfig").unwrap();
        let told = format!("{:#}", merged(&paths, home).unwrap_err());
        assert!(told.contains("two"), "{told}");
    }
}
