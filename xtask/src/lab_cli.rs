//! `cargo xtask lab`: the lab by hand, and incidents with svctrace watching.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use xtask::lab::clients::{self, CLIENTS};
use xtask::lab::incidents::{self, ClientRun, INCIDENTS, Incident};
use xtask::lab::trace::{self, Echo, Trace, Traced};
use xtask::lab::{self, Lab, PodSpec, state};
use xtask::{interrupt, repo};

const ATTACH_WITHIN: Duration = Duration::from_secs(15);
const END_WITHIN: Duration = Duration::from_secs(10);

/// What to do with the lab.
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Make a fresh lab and leave it up, broken as in the story or in INCIDENT
    Up {
        /// One of `lab list`
        #[arg(default_value = "search-timeout")]
        incident: String,
    },
    /// Remove the lab and everything a crashed run left of one
    Down,
    /// Run a command in a pod, as `kubectl exec` would: `lab exec client -- curl ...`
    Exec {
        /// The pod's name or short name; `node` is the node itself
        pod: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Fresh lab, svctrace attached, the incident's client, findings, lab down
    Run(Run),
    /// List the incidents
    List,
    /// Make programs that look names up, one for each resolver library, and print their commands:
    /// `lab exec client -- COMMAND NAME...`
    Clients,
    /// Show what is there of the lab
    Status,
    /// Start another pod in critical-app in the running lab
    Add {
        /// The pod's name
        pod: String,
    },
    /// Stop a pod of the running lab
    Remove {
        /// The pod's name
        pod: String,
    },
}

/// An incident with svctrace watching.
#[derive(clap::Args)]
pub(crate) struct Run {
    /// One of `lab list`
    pub(crate) incident: String,
    /// Use the release build of svctrace
    #[arg(long)]
    pub(crate) release: bool,
    /// Use this svctrace
    #[arg(long, value_name = "FILE")]
    pub(crate) binary: Option<PathBuf>,
    /// Do not tell svctrace about the API endpoint
    #[arg(long)]
    pub(crate) no_api: bool,
    /// More options for svctrace
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
}

impl Run {
    /// The incident as it is, without further options.
    pub(crate) fn plain(incident: &str) -> Self {
        Self {
            incident: incident.to_owned(),
            release: false,
            binary: None,
            no_api: false,
            args: Vec::new(),
        }
    }
}

/// Does it.
pub(crate) fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Up { incident } => up(incidents::find(&incident)?),
        Verb::Down => lab::down(),
        Verb::Exec { pod, command } => exec(&pod, &command),
        Verb::Run(options) => incident(&options),
        Verb::List => {
            for incident in &INCIDENTS {
                println!("{:16}  {}", incident.name, incident.shows);
            }
            Ok(())
        }
        Verb::Clients => {
            for name in CLIENTS {
                match clients::prepare(name) {
                    Ok(client) => println!("{name:12}  {}", client.words.join(" ")),
                    Err(why) => println!("{name:12}  not to be had: {why:#}"),
                }
            }
            Ok(())
        }
        Verb::Status => status(),
        Verb::Add { pod } => add(&pod),
        Verb::Remove { pod } => Lab::open()?.remove_pod(&pod),
    }
}

fn up(incident: &Incident) -> Result<()> {
    interrupt::catch()?;
    let started = Instant::now();
    let lab = incident.set_up()?;
    interrupt::check()?;
    print_world(&lab);
    println!("up in {:.2} s: {}", started.elapsed().as_secs_f64(), incident.shows);
    lab.keep();
    Ok(())
}

fn print_world(lab: &Lab) {
    println!("{:24} {:13} {:12} CGROUP ID", "POD", "NAMESPACE", "ADDRESS");
    for pod in &lab.world.pods {
        println!("{:24} {:13} {:12} {}", pod.name, pod.namespace, pod.ip, pod.cgroup_id);
    }
    println!("state {}, kubeconfig {}", state::folder().display(), state::kubeconfig().display());
}

fn status() -> Result<()> {
    for line in lab::leftovers()? {
        println!("{line}");
    }
    if let Ok(lab) = Lab::open() {
        print_world(&lab);
    } else {
        println!("the lab is not up");
    }
    Ok(())
}

fn exec(pod: &str, words: &[String]) -> Result<()> {
    lab::check_root()?;
    let Some((program, args)) = words.split_first() else { bail!("no command given") };
    let lab = Lab::open()?;
    let mut command = match pod {
        "node" => lab::node_command(program)?,
        name => lab.command(lab.pod(name)?, program)?,
    };
    let error = command.args(args).exec();
    bail!("cannot run `{program}` in {pod}: {error}")
}

fn add(name: &str) -> Result<()> {
    lab::check_root()?;
    let mut lab = Lab::open()?;
    let taken = |host: u8| lab.world.pods.iter().any(|pod| pod.ip == format!("10.244.1.{host}"));
    let Some(host) = (100..250).find(|host| !taken(*host)) else { bail!("no address is free") };
    // A veth's name has at most 15 characters.
    let mut spec = PodSpec::client(name, host);
    spec.key = format!("pod{host}");
    let pod = lab.add_pod(&spec)?;
    println!("{} {} {}", pod.name, pod.ip, pod.cgroup_id);
    Ok(())
}

fn incident(options: &Run) -> Result<()> {
    let incident = incidents::find(&options.incident)?;
    let outcome = watch(incident, options, |_| {})?;
    if !outcome.traced.status.success() {
        bail!("svctrace ended with {}", outcome.traced.status);
    }
    Ok(())
}

/// What came of an incident.
pub(crate) struct Outcome {
    pub(crate) traced: Traced,
    pub(crate) clients: Vec<ClientRun>,
}

/// Runs the incident with svctrace watching; `say` hears about each step.
pub(crate) fn watch(incident: &Incident, options: &Run, say: impl Fn(&str)) -> Result<Outcome> {
    interrupt::catch()?;
    lab::check_root()?;
    let binary = match &options.binary {
        Some(path) => path.canonicalize()?,
        None => repo::svctrace(options.release)?,
    };
    say("making the lab: pods, a resolver, a silent upstream, backends behind a Service");
    let lab = incident.set_up()?;
    let flood = incident.start_neighbour(&lab)?;
    let mut args = trace::lab_args(!options.no_api);
    if !options.args.iter().any(|arg| TARGETS.contains(&arg.as_str())) {
        args.extend(["--pod", "client", "-n", "critical-app"].map(str::to_owned));
    }
    args.extend(options.args.iter().cloned());
    say(&format!("$ svctrace {}", args.join(" ")));
    let mut trace = Trace::start(&binary, &args, Echo::Show)?;
    trace.wait_attached(ATTACH_WITHIN)?;
    let mut clients = Vec::new();
    for words in incident.clients {
        say(&format!("client$ {}", words.join(" ")));
        let client = incidents::run_client(&lab, words)?;
        for text in [&client.stdout, &client.stderr] {
            eprint!("{text}");
        }
        clients.push(client);
    }
    say("the client is done: Ctrl-C for svctrace");
    let traced = trace.finish(END_WITHIN)?;
    drop(flood);
    lab.down()?;
    Ok(Outcome { traced, clients })
}

/// Options of svctrace by which the user names another target than the incident's client.
const TARGETS: [&str; 5] = ["--pod", "--container", "--cgroup", "--pid", "--"];
