//! The kernel modules the lab needs, with what they depend on, in the order they must be loaded.
//! What a kernel has built in, or does not have at all, is left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use xtask::cmd;

/// Bridge and pods; kube-proxy's rules; kube-proxy's other mode; delay.
const WANTED: [&str; 28] = [
    "veth",
    "bridge",
    "br_netfilter",
    "dummy",
    "nf_tables",
    "nft_compat",
    "nft_counter",
    "nft_reject_ipv4",
    "nft_masq",
    "nft_chain_nat",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "xt_statistic",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_nat",
    "xt_addrtype",
    "xt_tcpudp",
    "xt_string",
    "xt_u32",
    "xt_MASQUERADE",
    "ipt_REJECT",
    "ip6t_REJECT",
    "ip_vs",
    "ip_vs_rr",
    "sch_netem",
];

/// The modules' files in load order: name and content.
pub(super) fn collect(unpacked: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let Some((base, release)) = find(unpacked) else { bail!("the packages have no modules") };
    cmd::run("depmod", [Path::new("-b"), &base, Path::new(&release)])?;
    let mut seen = BTreeSet::new();
    let mut files = Vec::new();
    for name in WANTED {
        let options = ["-S", &release, "-d"].map(Path::new);
        let rest = ["--show-depends", name].map(Path::new);
        let words = options.into_iter().chain([base.as_path()]).chain(rest);
        // A module that this kernel has not is none we can load.
        let Ok(text) = cmd::run("modprobe", words) else { continue };
        for path in text.lines().filter_map(|line| line.trim().strip_prefix("insmod ")) {
            let path = PathBuf::from(path.split_whitespace().next().unwrap_or(path));
            if seen.insert(path.clone()) {
                let name = format!("{:03}-{}", files.len(), stem(&path));
                files.push((name, content(&path)?));
            }
        }
    }
    Ok(files)
}

/// The folder that has lib/modules, and the release below it.
fn find(unpacked: &Path) -> Option<(PathBuf, String)> {
    [unpacked.to_path_buf(), unpacked.join("usr")].into_iter().find_map(|base| {
        let mut all = fs::read_dir(base.join("lib/modules")).ok()?.flatten();
        let one = all.find(|e| e.path().join("kernel").is_dir())?;
        Some((base, one.file_name().to_string_lossy().into_owned()))
    })
}

fn stem(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{}.ko", name.split('.').next().unwrap_or_default())
}

fn content(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = cmd::command(program).arg("-dc").arg(path).output()?;
    if !output.status.success() {
        bail!("{program} cannot unpack {}", path.display());
    }
    Ok(output.stdout)
}
