//! The HTTP servers behind the `backend` Service: nginx, one process a pod.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// Writes the configuration of the server in pod `name` below `folder` and returns its path.
pub(crate) fn config(folder: &Path, key: &str, name: &str) -> Result<PathBuf> {
    let home = folder.join(format!("nginx-{key}"));
    fs::create_dir_all(&home)?;
    let home = home.display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {home}/{kind}; "))
        .concat();
    let text = format!(
        "daemon off; master_process off; user root; pid {home}/pid; error_log stderr;\n\
         events {{}}\n\
         http {{ access_log off; {temp}\n\
         server {{ listen 8080; location / {{ return 200 \"hello from {name}\\n\"; }} }} }}\n"
    );
    let file = folder.join(format!("nginx-{key}.conf"));
    fs::write(&file, text)?;
    Ok(file)
}
