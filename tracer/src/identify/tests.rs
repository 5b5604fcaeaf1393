//! Events in, identities out.

use super::*;
use crate::context::{Origin, Role};
use crate::event::{AddressCall, Protocol, SocketAddress, SocketClosed};

pub(super) const UID: &str = "4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b";
pub(super) const MINUTE: u64 = 60_000_000_000;

fn cid() -> String {
    "b3a7".repeat(16)
}

pub(super) fn path() -> String {
    format!("/kubepods/burstable/pod{UID}/{}", cid())
}

fn task(pid: u32) -> Task {
    Task { pid, tid: pid + 1, comm: "curl".into() }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) struct Story {
    pub(super) who: Identifier,
    pub(super) now: u64,
}

impl Story {
    pub(super) fn new() -> Self {
        Self { who: Identifier::default(), now: 0 }
    }

    pub(super) fn by(&mut self, actor: Actor, body: Body) -> &mut Self {
        self.now += 1_000;
        let at = Timestamp(self.now);
        self.who.learn(&Event { number: 1, at, cpu: None, probe: None, actor, body });
        self
    }

    pub(super) fn says(&mut self, body: Body) -> &mut Self {
        self.by(Actor::default(), body)
    }

    pub(super) fn wait(&mut self, ns: u64) -> &mut Self {
        self.now += ns;
        self.says(Body::Heartbeat)
    }

    pub(super) fn cgroup(&mut self, id: u64, path: &str) -> &mut Self {
        self.says(Body::Cgroup(context::Cgroup { id, path: path.into() }))
    }

    fn scope(&mut self, cgroup: u64, path: &str, role: Role) -> &mut Self {
        let path = path.into();
        self.says(Body::Scope(context::Scope { cgroup, path, role, ..Default::default() }))
    }
}

/// Each host has its own connection tracking, and numbers of its own for network namespaces.
#[test]
fn what_was_refused_on_each_host() {
    let mut story = Story::new();
    let on = |host| Actor { host: HostId(host), ..Actor::default() };
    for (host, counted) in [(0, [0, 3]), (1, [0, 0])] {
        for (second, insert_failed) in [1_u64, 2].into_iter().zip(counted) {
            let at = Timestamp(second * 1_000_000_000);
            let counters =
                context::ConntrackCounters { insert_failed, drop: insert_failed, early_drop: 0 };
            let counters = Some(counters);
            let reading = context::Conntrack { net_ns: 7, own: true, counters, since: at, at };
            story.by(on(host), Body::Conntrack(reading));
        }
    }
    let when = BTreeSet::from([Timestamp(2_000_000_000)]);
    let refused = |hosts: &[u16]| {
        let actors: Vec<Actor> = hosts.iter().map(|host| on(*host)).collect();
        let all = story.who.refused(actors.iter(), &when)?;
        Some(all.iter().map(|one| (one.host.0, one.insert_failed)).collect::<Vec<_>>())
    };
    assert_eq!(refused(&[0, 1]), Some(vec![(0, 3), (1, 0)]));
    assert_eq!(refused(&[1]), Some(vec![(1, 0)]));
    assert_eq!(refused(&[0, 2]), None, "nobody tried on one of them");
}

pub(super) fn pod() -> context::Pod {
    context::Pod {
        uid: UID.into(),
        namespace: "critical-app".into(),
        name: "client".into(),
        node: Some("node-1".into()),
        ips: vec![ip("172.17.0.7")],
        owner: Some("Deployment/client".into()),
        containers: vec![context::Container { name: "main".into(), id: Some(cid()) }],
        origin: Origin::Api,
        ..Default::default()
    }
}

pub(super) fn cgroup_actor(cgroup: u64) -> Actor {
    Actor { cgroup: Some(cgroup), ..Actor::default() }
}

fn cookie_actor(cookie: u64) -> Actor {
    Actor { cookie: Some(cookie), ..Actor::default() }
}

fn hook(remote: &str) -> Body {
    let (call, protocol) = (AddressCall::Sendmsg, Protocol::Udp);
    Body::SocketAddress(SocketAddress { call, protocol, remote: addr(remote), fd: None })
}

#[test]
fn a_packet_finds_its_process_and_pod_by_cookie() {
    let mut story = Story::new();
    let owner =
        Actor { task: Some(task(10)), cgroup: Some(77), cookie: Some(5), ..Actor::default() };
    story.cgroup(77, &path()).by(owner, hook("10.96.0.10:53"));
    let packet = Actor { local: Some(addr("172.17.0.7:40000")), ..cookie_actor(5) };
    let early = story.who.identity(&packet);
    assert_eq!((early.pod, early.cgroup), (None, Some(path())));
    let got = story.says(Body::Pod(pod())).who.identity(&packet);
    let want = Identity {
        address: None,
        namespace: Some("critical-app".into()),
        pod: Some("client".into()),
        named_by: Some(Origin::Api),
        container: Some("main".into()),
        container_id: Some(cid()),
        node: Some("node-1".into()),
        host: None,
        owner: Some("Deployment/client".into()),
        cgroup: None,
        pid: Some(10),
        tid: Some(11),
        comm: Some("curl".into()),
    };
    assert_eq!(got, want);
    assert_eq!(story.who.intended(&packet), Some(addr("10.96.0.10:53")));
    assert_eq!(story.who.entity(&packet), Some(Entity::Pod(UID.into())));

    // Late packets of a closed socket still find it; much later it is forgotten.
    let (protocol, local, remote) = (Protocol::Udp, None, None);
    story.by(cookie_actor(5), Body::SocketClosed(SocketClosed { protocol, local, remote }));
    assert_eq!(story.wait(MINUTE).who.identity(&packet).pid, Some(10));
    assert_eq!(story.wait(2 * MINUTE).who.identity(&packet).pid, None);
    assert_eq!(story.who.identity(&packet).pod.as_deref(), Some("client"), "by its address");
}

#[test]
fn seeded_sockets_and_several_servers() {
    let mut story = Story::new();
    story.cgroup(77, &path()).says(Body::Pod(pod()));
    let socket = context::Socket {
        cookie: 6,
        protocol: 17,
        local: addr("172.17.0.7:40000"),
        remote: Some(addr("10.96.0.10:53")),
        pid: Some(20),
        comm: Some("server".into()),
        fd: Some(3),
        cgroup: Some(77),
        net_ns: None,
    };
    story.says(Body::Socket(socket.clone()));
    let got = story.who.identity(&cookie_actor(6));
    assert_eq!((got.pid, got.tid, got.comm.as_deref()), (Some(20), None, Some("server")));
    assert_eq!(got.pod.as_deref(), Some("client"));
    let owner = Actor { task: Some(task(21)), ..cookie_actor(6) };
    story.by(owner.clone(), hook("1.1.1.1:53")).by(owner, hook("2.2.2.2:53"));
    story.says(Body::Socket(socket));
    let who = &story.who;
    assert_eq!(who.identity(&cookie_actor(6)).pid, Some(21), "the hook knows better");
    assert_eq!(who.intended(&cookie_actor(6)), Some(addr("2.2.2.2:53")));
    assert_eq!(who.asked_for(&cookie_actor(6), addr("1.1.1.1:53")), addr("1.1.1.1:53"));
    assert_eq!(who.asked_for(&cookie_actor(6), addr("9.9.9.9:53")), addr("2.2.2.2:53"));
    assert_eq!(who.asked_for(&cookie_actor(7), addr("9.9.9.9:53")), addr("9.9.9.9:53"));
}

#[test]
fn roles_by_containment() {
    let mut story = Story::new();
    story.scope(70, "/kubepods/pod1", Role::Target).scope(80, "/kubepods/dns/", Role::Resolver);
    story.cgroup(71, "/kubepods/pod1/c").cgroup(72, "/kubepods/pod10").cgroup(81, "/kubepods/dns");
    let role = |story: &Story, id| story.who.role(&cgroup_actor(id));
    assert_eq!(role(&story, 70), Some(Role::Target));
    assert_eq!(role(&story, 71), Some(Role::Target));
    assert_eq!(role(&story, 72), None);
    assert_eq!(role(&story, 81), Some(Role::Resolver));
    assert_eq!(role(&story, 99), None);
    assert_eq!(story.who.entity(&cgroup_actor(71)), Some(Entity::Cgroup(HostId(0), 70)));
    assert_eq!(story.who.entity(&cgroup_actor(72)), Some(Entity::Cgroup(HostId(0), 72)));

    // A target that is the resolver too stays a target; removed cgroups stay known for a while.
    story.scope(70, "/kubepods/pod1", Role::Resolver);
    story.says(Body::CgroupRemoved(context::Cgroup { id: 71, path: "/kubepods/pod1/c".into() }));
    assert_eq!(role(story.wait(MINUTE), 71), Some(Role::Target));
    assert_eq!(role(story.wait(2 * MINUTE), 71), None);

    // The root as a target holds everything; one process only where asked for.
    story.scope(1, "/", Role::Target).cgroup(5, "/init.scope");
    assert_eq!(role(&story, 5), Some(Role::Target));
    let only_pid = Some(10);
    let path = "/shared".to_owned();
    let scope = context::Scope { cgroup: 90, path, only_pid, ..Default::default() };
    let mut story = Story::new();
    story.says(Body::Scope(scope));
    let actor = |pid| Actor { task: Some(task(pid)), ..cgroup_actor(90) };
    assert_eq!(story.who.role(&actor(10)), Some(Role::Target));
    assert_eq!(story.who.role(&actor(11)), None);
    assert_eq!(story.who.role(&cgroup_actor(90)), Some(Role::Target));
}

fn process(pid: u32, cgroup: u64, mnt_ns: u64) -> Body {
    let (cgroup, mnt_ns) = (Some(cgroup), Some(mnt_ns));
    Body::Process(context::Process { pid, cgroup, mnt_ns, ..Default::default() })
}

fn conf(cgroup: Option<u64>, mnt_ns: Option<u64>, text: &str) -> Body {
    let text = Some(text.to_owned());
    let path = "/etc/resolv.conf".into();
    Body::ResolvConf(context::ResolvConf { cgroup, mnt_ns, text, path, ..Default::default() })
}

fn domain(story: &Story, actor: &Actor) -> Option<String> {
    story.who.cluster_domain(actor)
}

#[test]
fn resolver_configurations() {
    let mut story = Story::new();
    story.cgroup(77, &path()).cgroup(78, &format!("/kubepods/burstable/pod{UID}/other"));
    story.says(process(10, 77, 1000));
    story.says(conf(Some(77), Some(1000), "search a.svc.one.test svc.one.test one.test\n"));
    story.says(conf(Some(99), None, "search svc.two.test a.svc.two.test\n"));
    let by_pid = |pid, cgroup| Actor { task: Some(task(pid)), ..cgroup_actor(cgroup) };
    assert_eq!(domain(&story, &by_pid(10, 77)).as_deref(), Some("one.test"));
    assert_eq!(domain(&story, &by_pid(11, 77)).as_deref(), Some("one.test"), "by cgroup");
    assert_eq!(domain(&story, &by_pid(12, 78)).as_deref(), Some("one.test"), "same pod");
    assert_eq!(domain(&story, &cgroup_actor(99)).as_deref(), Some("two.test"));
    assert_eq!(domain(&story, &cgroup_actor(55)), None);
    // A process id used again in another cgroup does not keep its mount namespace.
    story.by(by_pid(10, 99), Body::Exec { filename: "/bin/x".into() });
    assert_eq!(domain(&story, &by_pid(10, 99)).as_deref(), Some("two.test"));
    story.says(conf(Some(99), None, "search only.example\n"));
    assert_eq!(domain(&story, &cgroup_actor(99)), None);
}

#[test]
fn ended_processes() {
    let mut story = Story::new();
    story.cgroup(77, &path()).says(process(10, 77, 1000));
    let owner = Actor { task: Some(task(10)), ..Actor::default() };
    story.by(owner.clone(), Body::Exit);
    assert_eq!(story.who.identity(&owner).container_id, Some(cid()), "late records find it");
    story.wait(2_000_000_000).by(owner.clone(), hook("1.1.1.1:53"));
    assert_eq!(story.who.identity(&owner).container_id, None, "the id was used again");
}

#[test]
fn better_origins_win() {
    let mut story = Story::new();
    let poor = context::Pod {
        name: "guess".into(),
        origin: Origin::Proc,
        ips: vec![],
        owner: None,
        dns_policy: Some("Default".into()),
        ..pod()
    };
    let named = |story: &Story| story.who.identity(&cgroup_actor(77)).pod;
    story.cgroup(77, &path()).says(Body::Pod(poor.clone()));
    assert_eq!(named(&story).as_deref(), Some("guess"));
    story.says(Body::Pod(pod())).says(Body::Pod(context::Pod { deleted: true, ..poor }));
    assert_eq!(named(&story).as_deref(), Some("client"));
    story.wait(3 * MINUTE);
    assert_eq!(named(&story).as_deref(), Some("client"), "a worse source cannot delete it");
    story.says(Body::Pod(context::Pod { deleted: true, ..pod() }));
    assert_eq!(named(story.wait(MINUTE)).as_deref(), Some("client"));
    assert_eq!(named(story.wait(2 * MINUTE)), None);
}

#[test]
fn without_a_cluster() {
    let mut story = Story::new();
    let host = context::Host { node: Some("n1".into()), ..Default::default() };
    story.says(Body::Host(host)).cgroup(9, "/system.slice/a\u{1b}.service");
    let got = story.who.identity(&cgroup_actor(9));
    assert_eq!(got.cgroup.as_deref(), Some("/system.slice/a\\x1b.service"));
    assert_eq!((got.node.as_deref(), got.pod), (Some("n1"), None));
    let local = Some(addr("10.1.1.1:1"));
    let entity = story.who.entity(&Actor { local, ..Actor::default() });
    assert_eq!(entity, Some(Entity::Address(HostId(0), ip("10.1.1.1"))));
    // A hybrid tree: the v2 path is the root, a v1 path says more.
    let cgroup_path = Some(path());
    let process = context::Process { pid: 30, cgroup: Some(1), cgroup_path, ..Default::default() };
    story.says(Body::Process(process)).cgroup(1, "/");
    let actor = Actor { task: Some(task(30)), ..cgroup_actor(1) };
    assert_eq!(story.who.identity(&actor).container_id, Some(cid()));
}
