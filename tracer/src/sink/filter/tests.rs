use super::*;
use crate::report::{EventLine, Identity, Loss, Ts};
use crate::{context::LossStage, record::Timestamp};

fn event() -> Output {
    let identity = Identity {
        namespace: Some("critical-app".into()),
        pod: Some("client".into()),
        pid: Some(4711),
        ..Identity::default()
    };
    Output::Event(EventLine {
        payload: None,
        schema: 1,
        n: 12,
        ts: Ts(Timestamp(1_700_000_000_000_000_000)),
        cpu: Some(3),
        identity,
        kind: "dns".into(),
        direction: Some("out".into()),
        result: None,
        errno: None,
        args: [
            ("id".to_owned(), 7.into()),
            ("big".to_owned(), u64::MAX.into()),
            ("question".to_owned(), "web.prod.svc".into()),
            ("answers".to_owned(), serde_json::json!([{"type": "A", "ttl": 5}, {"type": null}])),
            ("none".to_owned(), serde_json::json!([])),
        ]
        .into(),
    })
}

fn loss() -> Output {
    Output::Loss(Loss {
        schema: 1,
        host: None,
        ts: Ts(Timestamp(0)),
        stage: LossStage::Kernel,
        source: "x".into(),
        count: 3,
        first_ts: Ts(Timestamp(0)),
        last_ts: Ts(Timestamp(0)),
    })
}

fn takes(text: &str, output: &Output) -> Result<bool, String> {
    Filter::compile(text).unwrap_or_else(|e| panic!("{text}: {e}")).takes(output)
}

#[test]
fn fields_compare() {
    for (text, wanted) in [
        ("type == 'event'", true),
        ("type == \"event\" && n > 10", true),
        ("n > 10.5", true),
        ("n < 12", false),
        ("n * 2 + 1 == 25", true),
        ("args.id in [6, 7]", true),
        ("args.big > 5", true),
        ("identity.pod == 'client' && identity.pid == 4711", true),
        ("identity.pod.startsWith('cli')", true),
        ("args.question.matches('^web[.]')", true),
        ("args['question'].contains('prod')", true),
        ("size(args.answers) == 2", true),
        ("args.answers.exists(a, a.type == 'A')", true),
        ("args.answers.all(a, a.type == 'A')", false),
        ("args.answers.exists_one(a, a.type == 'A')", true),
        ("size(args.answers.filter(a, a.ttl > 1)) == 1", true),
        ("args.answers[0].ttl == 5", true),
        ("kind == 'dns' ? direction == 'out' : false", true),
        ("true", true),
        ("false", false),
    ] {
        assert_eq!(takes(text, &event()), Ok(wanted), "{text}");
    }
}

#[test]
fn missing_and_null_are_false_and_no_error() {
    for (text, wanted) in [
        ("duration_ns > 1000000000", false),
        ("duration_ns != 5", false),
        ("!(duration_ns > 5)", true),
        ("result < 0", false),
        ("errno == 'ENOENT'", false),
        ("errno != 'ENOENT'", false),
        ("identity.comm == 'curl'", false),
        ("identity.comm.startsWith('c')", false),
        ("args.question.deep == 1", false),
        ("name.endsWith('.local') || type == 'event'", true),
        ("size(answers) > 0", false),
        ("attempts.exists(a, a.outcome == 'timeout')", false),
        ("type == 'lookup' ? duration_ns > 5 : cost_ns > 5", false),
        ("args.none[0] == 1", false),
        ("details.whatever == 1", false),
        ("backend.pod == 'x'", false),
        ("attempts[0].transactions[0].recovered", false),
        ("attempts.exists(a, a.transactions.exists(t, t.recovered))", false),
        ("args['nothing'] == 1", false),
        ("errno == null", true),
        ("identity.comm == null", true),
        ("identity.comm != null", false),
        ("identity.pod != null", true),
        ("duration_ns == null", true),
        ("has(identity.pod)", true),
    ] {
        assert_eq!(takes(text, &event()), Ok(wanted), "{text}");
    }
    assert_eq!(takes("identity.pod == 'client'", &loss()), Ok(false));
}

#[test]
fn other_errors_are_told() {
    for (text, says) in [
        ("kind > 5", "overload"),
        ("n / 0 == 1", "ivision"),
        ("kind", "not true or false"),
        ("n + 1", "not true or false"),
    ] {
        let told = takes(text, &event()).unwrap_err();
        assert!(told.contains(says), "{text}: {told}");
    }
}

#[test]
fn equal_errors_are_told_with_equal_words() {
    // Maps of several keys, whose order differs from map to map, and values that differ by line.
    for text in [
        "{identity: 1} == {}",
        "{n: 1, 12: 2} == {}",
        "identity + args == 1",
        "identity - 1 == 1",
        "-identity == 1",
        "identity ? true : false",
        "identity || args",
        "args in identity",
        "identity.exists(k, k + 1 == 2)",
        "double(kind) == 1.0",
        "size(identity.pid) == 1",
        "int(identity) == 1",
        "args.answers[identity] == 1",
        "[identity] < [args]",
        "identity < args",
        "identity.map(k, identity.matches('x')) == 1",
        "args.matches('x')",
        "int(kind) == 1",
        "kind.matches('(' + kind)",
        "n % 0 == 1",
        "n / 0 == 1",
        "n * 9223372036854775807 == 1",
    ] {
        let filter = Filter::compile(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let one = event();
        let mut other = event();
        if let Output::Event(line) = &mut other {
            line.kind = "tcp".into();
            line.identity.pod = Some("other".into());
            line.identity.pid = Some(5);
        }
        let told = filter.takes(&one).unwrap_err();
        assert!(!["client", "4711", "dns", "web.prod"].iter().any(|v| told.contains(v)), "{told}");
        for again in [&one, &other].into_iter().cycle().take(12) {
            assert_eq!(filter.takes(again), Err(told.clone()), "{text}");
        }
    }
}

#[test]
fn mistakes_are_pointed_at() {
    for (text, says, mark) in [
        ("type == ", "", 8),
        ("type = 'lookup'", "", 5),
        ("type == 'lookup' && duraton_ns > 5", "no line has a field duraton_ns", 20),
        ("(n > 5", "", 6),
        ("identity.pdo == 'x'", "identity has no field pdo", 9),
        ("has(identity.pdo)", "identity has no field pdo", 13),
        ("n > 1 && identity.pod.x == 1", "identity.pod has no field x", 22),
        ("identity['pdo'] == 'x'", "identity has no field pdo", 10),
        ("attempts.outcome == 'x'", "attempts is a list", 9),
        ("attempts[0].outcom == 'x'", "has no field outcom", 12),
        ("attempts.exists(a, a.outcom == 'x')", "a has no field outcom", 21),
        ("attempts.exists(a, a.transactions.exists(t, t.nmae == 'x'))", "t has no field nmae", 46),
        ("backend.pdo == 'x'", "backend has no field pdo", 8),
        ("n > 5 &&\n  kind == = 3", "", 10),
    ] {
        let told = Filter::compile(text).unwrap_err();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 3, "{told}");
        assert!(lines[0].contains(says) && !lines[0].contains("expecting"), "{told}");
        assert_eq!(lines[2].find('^'), Some(2 + mark), "{told}");
    }
    assert!(Filter::compile("").is_err());
    assert!(Filter::compile(&"(".repeat(100)).is_err());
    assert!(Filter::compile("\u{1b}[31m").unwrap_err().bytes().all(|b| b != 0x1b));
}

#[test]
fn absurd_expressions_are_taken_or_refused() {
    let compile = || {
        for absurd in ["(", "!", "-", "1+", "a?b:", "n.", "n==1&&", "n[", "(1)+(", "[n,", "!("] {
            for times in [12, 30, 90, 300, 650, 1000, 2000, 100_000] {
                let open = absurd.repeat(times);
                let closed = format!("{open}n{}", ")".repeat(open.matches('(').count()));
                for text in [open, closed] {
                    if let Ok(filter) = Filter::compile(&text) {
                        let _ = filter.takes(&event());
                    }
                }
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(COMPILE_STACK);
    thread.spawn(compile).unwrap().join().unwrap();
}

/// Counts what passes.
#[derive(Default)]
struct Count(std::rc::Rc<std::cell::Cell<usize>>);

impl Sink for Count {
    fn output(&mut self, _output: &Output) -> io::Result<()> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }
}

#[test]
fn a_sink_sees_what_is_taken() {
    let seen = Count::default();
    let count = seen.0.clone();
    let mut sink = Filtered::new(Box::new(seen), Filter::compile("kind > 5 || n == 12").unwrap());
    sink.output(&event()).unwrap();
    sink.output(&loss()).unwrap();
    assert_eq!(count.get(), 1);
    let mut sink =
        Filtered::new(Box::new(Count(count.clone())), Filter::compile("kind > 5").unwrap());
    for _ in 0..3 {
        sink.output(&event()).unwrap();
    }
    assert_eq!((count.get(), sink.failed, sink.messages.len()), (1, 3, 1));
    sink.finish().unwrap();
}
