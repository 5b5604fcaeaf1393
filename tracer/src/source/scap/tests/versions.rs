//! Lists and events whose layout changed from version to version.

use super::*;
use crate::context::Pod;

const CONNECTED: &[u8] = &[172, 17, 0, 7, 10, 0, 2, 15, 160, 15, 53, 0, 3];

/// A descriptor list of all types of entries; number 3 is a DNS socket.
fn descriptors(kind: u32) -> Vec<u8> {
    let mut list = 10_i64.to_le_bytes().to_vec();
    let mut entry = |fd: i64, what: u8, rest: &[u8]| {
        let body = [&n(fd)[..], &n(900 + fd), &[what], rest].concat();
        if kind == 0x218 {
            list.extend(w(u32::try_from(body.len() + 4).unwrap()));
        }
        list.extend(body);
    };
    for (fd, what) in
        [1, 2, 7, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21].into_iter().enumerate()
    {
        entry(100 + i64::try_from(fd).unwrap(), what, &text(b"/some/name"));
    }
    entry(3, 3, CONNECTED);
    entry(4, 4, &[[0; 37].as_slice()].concat());
    entry(5, 5, &[0, 0, 0, 0, 53, 0, 3]);
    entry(6, 6, &[[0; 16].as_slice(), &[53, 0, 2]].concat());
    entry(8, 8, &[[0; 16].as_slice(), &text(b"/run/x.sock\n")].concat());
    let later: &[u8] = if kind == 0x218 { &[1, 0, 0, 0] } else { &[] };
    entry(16, 16, &[&w(0)[..], &text(b"/etc/resolv.conf"), later].concat());
    list
}

#[test]
fn descriptor_lists_of_each_version() {
    for kind in [0x203, 0x8001_ABCD, 0x218] {
        let mut file = File::new();
        file.processes((0x212, 6), &[(10, 10, "curl"), (11, 10, "curl")]);
        file.block(kind, &descriptors(kind));
        file.block(kind, &11_i64.to_le_bytes());
        let query = dns(7, false, "a.test", 1);
        let size = n(i64::try_from(query.len()).unwrap());
        file.event(0x204, 0, 10, 8, &[&n(3), &w(24)]);
        file.event(0x204, 10, 10, 9, &[&size, &query]);
        file.event(0x204, 20, 10, 6, &[&n(16), &w(99)]);
        file.event(0x204, 30, 10, 7, &[&n(9), b"search x\n"]);
        let (records, end) = file.read();
        assert!(end.is_none(), "{kind:x}: {end:?}");
        let [(record, got)] = &messages(&records)[..] else { panic!("{kind:x}") };
        assert_eq!((record.number, got.remote.to_string().as_str()), (2, "10.0.2.15:53"));
        let all = bodies(&records);
        let shown = |b: &Body, part: &str| matches!(b, Body::Call(c) if String::from_utf8_lossy(&c.args).contains(part));
        assert!(all.iter().any(|(r, b)| r.number == 3 && shown(b, "/etc/resolv.conf")));
        assert!(all.iter().any(|(_, b)| matches!(b, Body::ResolvConf(_))));
    }
}

#[test]
fn a_descriptor_list_that_ends_inside_an_entry() {
    for kind in [0x203, 0x218] {
        let list = descriptors(kind);
        let mut file = File::new();
        file.block(kind, &list[..list.len() - 10]);
        file.event(0x204, 0, 10, 4, &[&n(3)]);
        let (_, end) = file.read();
        assert!(matches!(end.unwrap().kind, CaptureErrorKind::Damaged(_)), "{kind:x}");
    }
}

#[test]
fn lists_that_are_not_needed_are_jumped_over() {
    let mut file = File::new();
    let user =
        [&[0][..], &w(0), &w(0), &text(b"root"), &text(b"/root"), &text(b"/bin/sh")].concat();
    let group = [&[1][..], &w(0), &text(b"root")].concat();
    file.block(0x205, &[[1, 0, 2, 0].as_slice(), &[0; 20], b"lo"].concat());
    file.block(0x8011_ABCD, &[[3, 0, 2, 0].as_slice(), &[0; 12], b"lo"].concat());
    file.block(0x206, &[user.clone(), group.clone()].concat());
    file.block(0x8012_ABCD, &user);
    file.block(0x220, &[&w(u32::try_from(group.len() + 4).unwrap())[..], &group].concat());
    file.block(0x2ee, b"of the future");
    file.event(0x204, 0, 10, 4, &[&n(3)]);
    let (records, end) = file.read();
    assert!(end.is_none(), "{end:?}");
    assert_eq!(calls(&records).len(), 1);
}

#[test]
fn the_newest_process_list_with_any_tail() {
    for tail in [0, 1, 12, 29, 30, 100] {
        let mut file = File::new();
        let mut body = Vec::new();
        for (tid, comm) in [(10_i64, "one"), (20, "two")] {
            let mut entry = Vec::new();
            for number in [tid, tid, 1, 7, 7] {
                entry.extend(n(number));
            }
            for word in [comm.as_bytes(), b"/x", b"/x", b"", b"/"] {
                entry.extend(text(word));
            }
            entry.extend([0; 8 + 12 + 28]);
            entry.extend(text(b""));
            entry.extend([n(tid), n(tid)].concat());
            entry.extend([text(b""), text(b"/")].concat());
            entry.extend(vec![9; tail]);
            body.extend(w(u32::try_from(entry.len() + 4).unwrap()));
            body.extend(entry);
        }
        file.block(0x215, &body);
        file.event(0x216, 0, 20, 4, &[&n(3)]);
        let (records, end) = file.read();
        assert!(end.is_none(), "{tail}: {end:?}");
        assert_eq!(records.last().unwrap().task.as_ref().unwrap().comm, "two", "{tail}");
    }
}

/// clone, fork and vfork: event type, position of the name, of the cgroups, of the flags.
const CLONES: [(u16, Option<usize>, Option<usize>, usize); 11] = [
    (15, None, None, 8),
    (157, None, None, 13),
    (183, None, None, 13),
    (185, None, None, 13),
    (217, Some(13), None, 14),
    (219, Some(13), None, 14),
    (221, Some(13), None, 14),
    (223, Some(13), Some(14), 15),
    (225, Some(13), Some(14), 15),
    (227, Some(13), Some(14), 15),
    (335, Some(13), Some(14), 15),
];

#[test]
fn children_of_each_version_have_their_parents_sockets() {
    for (kind, comm, cgroups, flags) in CLONES {
        let mut file = client(0x204);
        let cgroup = format!("cpu=/docker/{ID}\0");
        let mut all: Vec<Vec<u8>> = vec![vec![0; 8]; flags];
        (all[1], all[4], all[5]) = (b"/bin/sh\0".to_vec(), n(30).to_vec(), n(10).to_vec());
        if let Some(at) = comm {
            all[at] = b"child\0".to_vec();
        }
        if let Some(at) = cgroups {
            all[at] = cgroup.into_bytes();
        }
        all.extend([w(0).to_vec(), w(0).to_vec(), w(0).to_vec()]);
        if cgroups.is_some() {
            all.extend([n(2).to_vec(), n(2).to_vec()]);
        }
        let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        file.event(0x204, 40, 30, kind, &all);
        let query = dns(7, false, "a.test", 1);
        file.event(0x204, 50, 30, 8, &[&n(3), &w(24)]);
        file.event(0x204, 60, 30, 9, &[&n(24), &query]);
        // The socket lives on in its parent.
        file.event(0x204, 70, 30, 186, &[&n(0)]);
        let (records, end) = file.read();
        assert!(end.is_none(), "{kind}: {end:?}");
        let [(record, _)] = &messages(&records)[..] else { panic!("{kind}") };
        let task = record.task.as_ref().unwrap();
        let want = if comm.is_some() { "child" } else { "sh" };
        assert_eq!((task.pid, task.comm.as_str()), (30, want), "{kind}");
        assert!(record.cgroup.is_some(), "{kind}");
        assert!(records.iter().all(|r| r.kind != RecordKind::SocketClosed), "{kind}");
        assert!(records.iter().any(|r| r.kind == RecordKind::Exit), "{kind}");
    }
}

#[test]
fn programs_of_each_version() {
    for (kind, comm, count) in [
        (13, None, 8),
        (155, None, 13),
        (173, None, 14),
        (215, Some(13), 15),
        (231, Some(13), 16),
        (283, Some(13), 17),
        (289, Some(13), 17),
        (293, Some(13), 27),
        (331, Some(13), 27),
    ] {
        let mut file = File::new();
        file.processes((0x212, 6), &[(10, 10, "sh")]);
        let mut all: Vec<Vec<u8>> = vec![vec![0; 8]; count];
        (all[1], all[4]) = (b"/usr/bin/curl\0".to_vec(), n(10).to_vec());
        if let Some(at) = comm {
            all[at] = b"own-name\0".to_vec();
            if count > 15 {
                all[at + 1] = format!("cpu=/docker/{ID}\0").into_bytes();
            }
        }
        let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        file.event(0x216, 0, 10, kind, &all);
        let (records, end) = file.read();
        assert!(end.is_none(), "{kind}: {end:?}");
        let exec = records.iter().find(|r| r.kind == RecordKind::Exec).unwrap();
        let want = if comm.is_some() { "own-name" } else { "curl" };
        assert_eq!(exec.task.as_ref().unwrap().comm, want, "{kind}");
    }
}

#[test]
fn containers_of_each_age() {
    let labels = |name: &str| {
        format!(
            "{{\"container\":{{\"id\":\"{}\",\"full_id\":\"{ID}\",\"ip\":\"10.1.2.3\",\"labels\":{{\
             \"io.kubernetes.pod.uid\":\"uid-1\",\"io.kubernetes.pod.name\":\"client\",\
             {name}\"io.kubernetes.pod.namespace\":\"shop\"}}}}}}\n\0",
            &ID[..12]
        )
    };
    let container = labels("\"io.kubernetes.container.name\":\"web\",");
    let sandbox = labels("");
    let named = "k8s_web.1_client_shop_uid-1_2\0";
    let old = format!("{{\"container\":{{\"id\":\"{}\",\"name\":{named:?}}}}}", &ID[..12]);
    let old = old.replace("\\0", "");
    let id = format!("{}\0", &ID[..12]);
    let cases: [(u32, u16, Vec<&[u8]>, bool); 6] = [
        (0x204, 228, vec![id.as_bytes(), &[0; 4], named.as_bytes(), b"image\0"], true),
        (0x204, 272, vec![old.as_bytes()], true),
        (0x221, 324, vec![container.as_bytes()], true),
        (0x222, 402, vec![&[0; 4], b"container\0", container.as_bytes()], true),
        (0x221, 402, vec![&[0; 4], b"container_added\0", container.as_bytes()], true),
        (0x221, 324, vec![sandbox.as_bytes()], false),
    ];
    for (block, kind, parameters, has_container) in cases {
        let mut file = File::new();
        file.processes((0x212, 6), &[(10, 10, "sh")]);
        file.event(block, 0, 0, kind, &parameters);
        file.event(0x204, 10, 10, 4, &[&n(3)]);
        let (records, end) = file.read();
        assert!(end.is_none(), "{kind}: {end:?}");
        let pod =
            records.iter().find(|r| r.kind == RecordKind::Pod).unwrap_or_else(|| panic!("{kind}"));
        let pod: Pod = serde_json::from_slice(&pod.body).unwrap();
        assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("shop", "client"), "{kind}");
        assert_eq!(!pod.containers.is_empty(), has_container, "{kind}");
    }
}

#[test]
fn what_only_the_writer_knows_has_no_time_of_its_own() {
    // mesos, notification and infra (three bytes too long in old blocks), procinfo, drop.
    let mut file = File::new();
    file.event(0x204, 0, 10, 4, &[&n(3)]);
    file.event(0x204, 9_000, 0, 270, &[b"{}\0"]);
    for kind in [280, 286] {
        let at = file.event(0x204, 9_000, 0, kind, &[b"id\0", b"text\0"]);
        let len = at + 8 + 2 + 8 + 8;
        let told = u32::from_le_bytes(file.0[len..len + 4].try_into().unwrap()) + 3;
        file.0[len..len + 4].copy_from_slice(&w(told));
    }
    file.event(0x204, 10, 10, 148, &[&w(2)]);
    file.event(0x204, 20, 10, 234, &[&n(1), &n(2)]);
    file.event(0x204, 30, 10, 5, &[&n(0)]);
    let (records, end) = file.read();
    assert!(end.is_none(), "{end:?}");
    let told = calls(&records);
    assert_eq!(told.len(), 7);
    let names: Vec<&str> = told.iter().map(|call| call.1.as_str()).collect();
    assert_eq!(names, ["close", "mesos", "notification", "infra", "drop", "procinfo", "close"]);
    assert!(records.iter().all(|r| r.at.0 <= T0 + 30));
}

#[test]
fn another_section_begins_anew_but_numbers_go_on() {
    let mut file = client(0x204);
    let mut second = File::new();
    second.processes((0x215, 9), &[(10, 10, "wget")]);
    let query = dns(7, false, "a.test", 1);
    second.event(0x216, 100, 10, 8, &[&n(3), &w(24)]);
    second.event(0x216, 110, 10, 9, &[&n(24), &query]);
    file.0.extend(second.0);
    let (records, end) = file.read();
    assert!(end.is_none(), "{end:?}");
    let last = records.last().unwrap();
    assert_eq!((last.number, last.task.as_ref().unwrap().comm.as_str()), (6, "wget"));
    assert!(messages(&records).is_empty(), "descriptor 3 was the other section's");
}
