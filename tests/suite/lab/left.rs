//! What is left of a trace in the kernel and the cgroup tree once it ended, however it did: nothing.

use super::*;

/// Ids of the BPF programs, maps and links that these processes hold, as `kind:id`.
fn held(pids: &[i32]) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for pid in pids {
        let Ok(infos) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { continue };
        for info in infos.flatten() {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            for line in text.lines() {
                let Some((key, id)) = line.split_once(":\t") else { continue };
                if let Some(kind) = key.strip_suffix("_id").filter(|k| OBJECTS.contains(k)) {
                    ids.insert(format!("{kind}:{}", id.trim()));
                }
            }
        }
    }
    ids
}

const OBJECTS: [&str; 3] = ["prog", "map", "link"];

/// Ids of everything in the kernel, as `kind:id`.
pub(crate) fn existing() -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for kind in OBJECTS {
        let list: Value = serde_json::from_str(&cmd::run("bpftool", ["-j", kind, "show"]).unwrap())
            .unwrap_or_default();
        ids.extend(
            list.as_array().into_iter().flatten().map(|one| format!("{kind}:{}", one["id"])),
        );
    }
    ids
}

/// Whether a folder of this name is somewhere in the cgroup tree.
fn cgroup_exists(folder: &Path, name: &str) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        path.is_dir() && (entry.file_name() == name || cgroup_exists(&path, name))
    })
}

/// Starts a trace, ends it so, and looks for what is left of it.
fn leaves_nothing(end: impl FnOnce(&Trace, i32)) {
    let _lab = Lab::up(false).unwrap();
    let trace = attached(&POD);
    let agent = trace.pid();
    let pipeline = children(agent);
    assert_eq!(pipeline.len(), 1, "two processes");
    let ours = held(&[agent, pipeline[0]]);
    assert!(ours.len() > 20, "{ours:?}");
    assert!(ours.is_subset(&existing()), "{ours:?}");
    end(&trace, pipeline[0]);
    let _ = trace.wait(PATIENCE).unwrap();
    until("the pipeline process ends", || !Path::new(&format!("/proc/{}", pipeline[0])).exists());
    until("the kernel lets go", || existing().is_disjoint(&ours));
}

#[test]
fn nothing_is_left_after_the_end() {
    let Some(_guard) = lab_for("lab::left::nothing_is_left_after_the_end") else { return };
    leaves_nothing(|trace, _| trace.signal(Signal::SIGINT).unwrap());
}

#[test]
fn nothing_is_left_when_the_agent_is_killed() {
    let Some(_guard) = lab_for("lab::left::nothing_is_left_when_the_agent_is_killed") else {
        return;
    };
    leaves_nothing(|trace, _| trace.signal(Signal::SIGKILL).unwrap());
}

#[test]
fn nothing_is_left_when_the_pipeline_is_killed() {
    let Some(_guard) = lab_for("lab::left::nothing_is_left_when_the_pipeline_is_killed") else {
        return;
    };
    leaves_nothing(|_, pipeline| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pipeline), Signal::SIGKILL).unwrap();
    });
}

/// A command is run, traced and forgotten; its status is told, not returned.
#[test]
fn a_command_of_its_own() {
    let Some(_guard) = lab_for("lab::left::a_command_of_its_own") else { return };
    let _lab = Lab::up(false).unwrap();
    let args =
        ["-o", "json", "--no-api", "--", "sh", "-c", "curl -sS -m 2 http://10.244.1.1:1/; exit 7"];
    let trace = Trace::start(&binary::path(), args, Echo::Quiet).unwrap();
    let cgroup = format!("svctrace-{}", trace.pid());
    let traced = trace.wait(PATIENCE).unwrap();
    assert_eq!(traced.status.code(), Some(0), "{}", traced.stderr);
    assert!(traced.stderr.contains('7'), "{}", traced.stderr);
    let lines = lines(&traced.stdout);
    assert!(lines.iter().any(|line| line["type"] == "connection"), "{}", traced.stdout);
    assert_eq!(lines.last().unwrap()["type"], "summary");
    let mount = lab::cgroups::mount_point().unwrap();
    until("its cgroup goes", || !cgroup_exists(&mount, &cgroup));
}
