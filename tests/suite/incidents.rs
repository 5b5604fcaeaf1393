//! Incidents × clients in the lab: every scene lives, is recorded and replayed; each client's findings
//! are compared with what the table owes it, and the table becomes docs/incidents.md.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{binary, lines, of_type};
use xtask::lab::matrix::{How, LABEL, Ran, Row, Scene, Stage, scenes};
use xtask::lab::trace::Traced;
use xtask::{cmd, skips};

use crate::lab::{PATIENCE, attached, lab_for};

/// After the last client's end: lookups close, blocks are told.
const AFTERWARDS: Duration = Duration::from_secs(3);
/// How far a cost may be from what the client measured.
const TOLERANCE_S: f64 = 0.005;
const TOLERANCE: f64 = 0.05;

/// A row as it came out.
struct Result {
    scene: &'static str,
    row: Row,
    /// The codes found, the root first; those that only may be there left out.
    obtained: Vec<String>,
    /// The machine was too slow for what the row is about: what was found is true of that.
    slow: bool,
    waited: Option<f64>,
    cost: Option<f64>,
    /// What is not as expected.
    wrong: Vec<String>,
}

/// Scenes whose name contains `INCIDENTS` (one of several, with `|` between) only; then the page is left alone.
fn wanted() -> Option<String> {
    std::env::var("INCIDENTS").ok()
}

#[test]
fn incidents_by_clients() {
    let Some(_guard) = lab_for("incidents::incidents_by_clients") else { return };
    let begun = Instant::now();
    let mut results = Vec::new();
    for scene in scenes() {
        if wanted().is_some_and(|parts| !parts.split('|').any(|part| scene.name.contains(part))) {
            continue;
        }
        let missing = scene.setup.resolver.program().filter(|p| cmd::find(p).is_none());
        let missing =
            missing.or((scene.neighbour && cmd::find("dnsperf").is_none()).then_some("dnsperf"));
        match missing {
            Some(program) => skips::note(
                &format!("incidents: {}", scene.name),
                &format!("{program} is not installed"),
            ),
            None => {
                let begun = Instant::now();
                results.extend(watch(&scene));
                println!("{}: {:.1} s", scene.name, begun.elapsed().as_secs_f64());
            }
        }
    }
    let took = begun.elapsed().as_secs();
    print!("{}", page(&results, true));
    println!("{} rows in {took} s", results.len());
    let wrong: Vec<_> = results.iter().filter(|r| !r.wrong.is_empty()).collect();
    for result in &wrong {
        println!(
            "WRONG {}, {}, {}: {}",
            result.scene,
            result.row.incident.title,
            result.row.client,
            result.wrong.join("; ")
        );
    }
    assert!(wrong.is_empty(), "{} of {} rows are not as expected", wrong.len(), results.len());
    if wanted().is_none() {
        compare(&results);
    }
}

/// Every incident has its healthy twin, in the same scene, for the same client.
#[test]
fn every_incident_has_a_twin() {
    for scene in scenes() {
        let mut seen = BTreeSet::new();
        for row in &scene.rows {
            let key = (row.incident.title, row.client);
            assert!(seen.insert(key), "{}: {key:?} twice", scene.name);
            let twin = |other: &&Row| {
                (other.incident.title, other.client) == (row.incident.twin, row.client)
            };
            let twin = scene.rows.iter().find(twin);
            let twin = twin.unwrap_or_else(|| panic!("{}: {key:?} has no twin", scene.name));
            assert!(twin.expect.codes.is_empty() && twin.expect.may.is_empty(), "{key:?}");
        }
    }
}

fn watch(scene: &Scene) -> Vec<Result> {
    let skip = |row: &Row, why: &str| {
        skips::note(
            &format!("incidents: {}: {} with {}", scene.name, row.incident.title, row.client),
            why,
        );
    };
    let stage = Stage::set(scene, skip).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let capture = scratch.path().join("live.pcapng.zst");
    let selector = format!("{}={}", LABEL.0, LABEL.1);
    let words =
        ["-l", &selector, "-n", "critical-app", "-o", "json", "-w", capture.to_str().unwrap()];
    let trace = attached(&[&words[..], scene.args].concat());
    let (lab, ran) = stage.play().unwrap();
    std::thread::sleep(AFTERWARDS);
    let traced = trace.finish(PATIENCE).unwrap();
    if let Ok(folder) = std::env::var("INCIDENTS_KEEP") {
        fs::copy(&capture, format!("{folder}/{}.pcapng.zst", scene.name.replace([' ', ','], "-")))
            .unwrap();
    }
    lab.down().unwrap();
    assert_eq!(traced.status.code(), Some(0), "{}: {}", scene.name, traced.stderr);
    let replay = binary::run(&["-r", words[7], "-o", "json"]);
    assert_eq!(binary::stderr(&replay), "", "{}", scene.name);
    assert!(binary::stdout(&replay) == traced.stdout, "{}: the replay differs", scene.name);
    judge(scene, &traced, ran)
}

fn judge(scene: &Scene, traced: &Traced, ran: Vec<Ran>) -> Vec<Result> {
    let lines = lines(&traced.stdout);
    assert_eq!(of_type(&lines, "summary")[0]["lost"], 0, "{}", scene.name);
    if scene.rows.iter().any(|row| row.incident.how == How::Asked) {
        let unmatched = of_type(&lines, "summary")[0]["unmatched"].as_object().unwrap();
        let reasons: Vec<&str> = unmatched.keys().map(String::as_str).collect();
        assert_eq!(reasons, ["asked-before"], "{}: {unmatched:?}", scene.name);
    }
    let findings = of_type(&lines, "finding");
    for finding in &findings {
        let nameless = finding["class"] == "connection";
        assert_eq!(finding["lookups"].as_array().unwrap().is_empty(), nameless, "{finding}");
    }
    let one = |ran: Ran| {
        let mut lookups = of_type(&lines, "lookup");
        lookups.retain(|lookup| lookup["identity"]["pod"] == ran.pod.as_str());
        outcome(scene.name, ran, &lookups, &findings)
    };
    ran.into_iter().map(one).collect()
}

/// One client's findings against what is owed.
fn outcome(scene: &'static str, ran: Ran, lookups: &[&Value], findings: &[&Value]) -> Result {
    let expect = ran.row.expect;
    let ids: Vec<&Value> = lookups.iter().map(|lookup| &lookup["id"]).collect();
    let hit = |f: &&&Value| {
        let of_pod = |client: &Value| client["pod"] == ran.pod.as_str();
        let nameless = f["class"] == "connection"
            && f["details"]["clients"].as_array().unwrap().iter().any(of_pod);
        nameless || f["lookups"].as_array().unwrap().iter().any(|id| ids.contains(&id))
    };
    let mine: Vec<&Value> = findings.iter().filter(hit).copied().collect();
    let mut found: Vec<&str> = mine.iter().map(|f| f["code"].as_str().unwrap()).collect();
    found.retain(|code| expect.codes.contains(code) || !expect.may.contains(code));
    let machine =
        |code: &&str| slow_machine(&ran) && BY_TIME.contains(code) && !expect.codes.contains(code);
    let excused: Vec<&str> = found.iter().copied().filter(machine).collect();
    found.retain(|code| !machine(code));
    // What is owed first, in its order; then the rest.
    let rank = |code: &&str| expect.codes.iter().position(|c| c == code).unwrap_or(usize::MAX);
    found.sort_by_key(rank);
    found.dedup();
    let mut wrong = Vec::new();
    let instead = !expect.slow_machine.is_empty() && found == expect.slow_machine;
    let slow = instead || !excused.is_empty();
    if found != expect.codes && !instead {
        wrong.push(format!("found {found:?}, owed {:?}", expect.codes));
    }
    // A name that the first suffix completes looks like one typed in full.
    let typed = ran.typed.trim_end_matches('.');
    let names: Vec<&str> = lookups.iter().map(|l| l["name"].as_str().unwrap()).collect();
    let same = |name: &&str| {
        name.strip_prefix(typed).is_some_and(|end| end.is_empty() || end.starts_with('.'))
    };
    // Whose question came before svctrace has no lookup, or a part of one.
    let unseen = ran.row.incident.how == How::Asked;
    if expect.nameless && !lookups.is_empty() {
        wrong.push(format!("lookups of {names:?}"));
    }
    if !names.iter().any(same) && !unseen && !expect.nameless {
        wrong.push(format!("no lookup of {typed}: {names:?}"));
    }
    let cost = expect.cost.and_then(|code| charged(&mine, code, &ran.pod));
    wrong.extend(root_and_cost(&ran, &mine, cost));
    let obtained = found.into_iter().chain(excused).map(str::to_owned).collect();
    Result { scene, row: ran.row, obtained, slow, waited: ran.waited, cost, wrong }
}

/// A lookup that should have been quick took longer than findings by time allow: what they say is true.
fn slow_machine(ran: &Ran) -> bool {
    ran.row.expect.cost.is_none() && ran.waited.is_some_and(|waited| (0.09..1.0).contains(&waited))
}

/// Codes that a time alone makes.
const BY_TIME: [&str; 3] = ["search-expansion", "foreign-suffix", "slow-dns"];

/// The root's confidence, what is tied to it, and what it cost: complaints.
fn root_and_cost(ran: &Ran, mine: &[&Value], cost: Option<f64>) -> Vec<String> {
    let mut wrong = Vec::new();
    let expect = ran.row.expect;
    let of = |code: &str| mine.iter().find(|f| f["code"] == code);
    if let Some((first, others)) = expect.codes.split_first()
        && let Some(root) = of(first)
    {
        // Of several silences each causes what it causes, and one may be surer than another.
        let same = || mine.iter().filter(|f| f["code"] == *first);
        if !same().any(|f| f["confidence"] == expect.confidence) {
            wrong.push(format!("{first} is {}", root["confidence"]));
        }
        if let Some(class) = expect.class
            && !same().any(|f| f["class"] == class)
        {
            wrong.push(format!("{first} has the class {}", root["class"]));
        }
        let says = |f: &Value| f["cause"].as_str().is_some_and(|cause| cause.contains(expect.says));
        if !same().any(|f| says(f)) {
            wrong.push(format!("{first} does not say {:?}: {}", expect.says, root["cause"]));
        }
        let roots: Vec<&Value> = same().map(|f| &f["id"]).collect();
        for code in others {
            let by = |f: &&Value| {
                f["caused_by"].as_array().unwrap().iter().any(|id| roots.contains(&id))
            };
            if !expect.apart && !of(code).is_none_or(by) {
                wrong.push(format!("{code} is not caused by {first}"));
            }
        }
    }
    let Some(waited) = ran.waited else {
        wrong.push(format!("the client does not say how long it waited: {}", ran.said));
        return wrong;
    };
    if let Some(cost) = cost
        && (cost - waited).abs() > TOLERANCE_S.max(TOLERANCE * waited)
    {
        wrong.push(format!("cost {cost:.3} s, the client waited {waited:.3} s"));
    }
    wrong
}

/// What findings of this code charge to the pod, in seconds: told again, they charge again.
fn charged(mine: &[&Value], code: &str, pod: &str) -> Option<f64> {
    let all: Vec<_> = mine.iter().filter(|f| f["code"] == code).collect();
    (!all.is_empty()).then(|| all.iter().map(|f| waited(f, pod)).sum())
}

/// What this pod's lookups waited because of a finding, in seconds. One without a list of clients is
/// about this pod's name only.
fn waited(finding: &Value, pod: &str) -> f64 {
    let Some(clients) = finding["details"]["clients"].as_array() else {
        return finding["cost_ns"].as_u64().unwrap() as f64 / 1e9;
    };
    // A proxy in the pod waits for the client, not beside it.
    let mine = clients.iter().filter(|client| client["pod"] == pod && client["comm"] != "xtask");
    mine.map(|client| client["waited_ns"].as_u64().unwrap()).sum::<u64>() as f64 / 1e9
}

/// Behind what was found only because the machine was busy.
const SLOW: &str = "(slow machine)";

const HEAD: &str = "\
# Incidents

Made by the suite (`BLESS=1 cargo test -p tests --test suite incidents`): each row was brought about in the lab with
a real client, watched live, recorded and replayed with the same result. *Expected* is what the incident owes; the
first code is the root of the others. An incident's *twin* is the same without the trouble: nothing may be found in
it. *Waited* is what the client measured around its lookup, *cost* what svctrace charged to the root for it (compared
within 5 % or 5 ms, where the wait is of one kind and long enough). *(slow machine)*: the machine was so busy that a
quick walk took over 100 ms, or the two queries of a pair went apart; what was found is true of that. Times are those of the last run that wrote this
page; all else is compared at every run.
";

/// The page; with times, or without for comparing.
fn page(results: &[Result], times: bool) -> String {
    let mut text = String::from(HEAD);
    let mut last = "";
    for result in results {
        if result.scene != last {
            last = result.scene;
            let _ = write!(
                text,
                "\n## Resolver: {last}\n\n| incident | client | expected | obtained | waited | cost |\n|---|---|---|---|---|---|\n"
            );
        }
        let seconds =
            |s: Option<f64>| s.filter(|_| times).map_or(String::new(), |s| format!("{s:.3} s"));
        let list = |codes: &[String]| {
            if codes.is_empty() { "nothing".to_owned() } else { codes.join(", ") }
        };
        let expected: Vec<String> =
            result.row.expect.codes.iter().map(|c| (*c).to_owned()).collect();
        let mut expected = list(&expected);
        if result.row.expect.confidence == "inferred" {
            expected += " (inferred)";
        }
        let _ = writeln!(
            text,
            "| {} | {} | {expected} | {} | {} | {} |",
            title(&result.row),
            result.row.client,
            match result.slow {
                true => format!("{} {SLOW}", list(&result.obtained)),
                false => list(&result.obtained),
            },
            seconds(result.waited),
            seconds(result.cost)
        );
    }
    text
}

fn title(row: &Row) -> String {
    let title = row.incident.title;
    if row.incident.is_healthy() { format!("{title} (twin)") } else { title.to_owned() }
}

/// The rows of the committed page are those of this run, but for times and for what was skipped.
fn compare(results: &[Result]) {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/incidents.md"));
    if std::env::var("BLESS").is_ok() {
        fs::write(&path, page(results, true)).unwrap();
        return;
    }
    let committed = rows(&fs::read_to_string(&path).unwrap());
    let now = rows(&page(results, false));
    // What a busy machine made of a row says nothing about it.
    let same = |a: &(String, Vec<String>), b: &(String, Vec<String>)| {
        let slow = [a, b].iter().any(|row| row.1[3].ends_with(SLOW));
        a == b || (slow && a.0 == b.0 && a.1[..3] == b.1[..3])
    };
    for row in &now {
        assert!(
            committed.iter().any(|other| same(row, other)),
            "not in docs/incidents.md (`BLESS=1` rewrites it): {row:?}"
        );
    }
    let all: usize = scenes().iter().map(|scene| scene.rows.len()).sum();
    assert_eq!(committed.len(), all, "docs/incidents.md has rows that are no more, or lacks some");
}

/// Scene and first four columns of each row.
fn rows(page: &str) -> Vec<(String, Vec<String>)> {
    let mut scene = String::new();
    let mut rows = Vec::new();
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            name.clone_into(&mut scene);
        }
        let columns: Vec<String> = line.split('|').map(|c| c.trim().to_owned()).collect();
        if columns.len() == 8 && columns[1] != "incident" && !columns[1].starts_with("---") {
            rows.push((scene.clone(), columns[1..5].to_vec()));
        }
    }
    rows
}
