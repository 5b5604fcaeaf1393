//! A scene happening: its lab, its pods, its clients. svctrace is started by the caller in between.

use std::collections::BTreeMap;
use std::process::{Child, ChildStdin, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{How, LABEL, Row, Scene};
use crate::interrupt;
use crate::lab::clients::{self, Client};
use crate::lab::faults::Fault;
use crate::lab::incidents::Flood;
use crate::lab::{Lab, PodSpec};

/// The first pod's last byte of address.
const FIRST_HOST: u8 = 100;
/// Clients begin one after the other, so that none delays another's short waits.
const APART: Duration = Duration::from_millis(60);
/// Those with nothing wrong begin when the others wait.
const HEALTHY_AFTER: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(75);
/// Runs a script of Python's when a line comes.
const WHEN_TOLD: &str = "import runpy, sys; print('ready', flush=True); sys.stdin.readline(); \
                         sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')";

/// A scene's lab with a pod for each row.
#[derive(Debug)]
pub struct Stage {
    lab: Lab,
    rows: Vec<Cast>,
    resolver_dies_ms: Option<u64>,
    neighbour: bool,
    flood: Option<Flood>,
}

/// A row with its pod and program.
#[derive(Debug)]
struct Cast {
    row: Row,
    pod: String,
    typed: String,
    client: Client,
    running: Option<(Child, Option<ChildStdin>, Instant)>,
}

/// What came of a row.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The row.
    pub row: Row,
    /// The name of its pod.
    pub pod: String,
    /// The name it looked up.
    pub typed: String,
    /// The seconds the client says it waited.
    pub waited: Option<f64>,
    /// All it printed.
    pub said: String,
}

impl Stage {
    /// Makes the lab and its pods. Rows whose client cannot be had are handed to `skip` with the reason.
    pub fn set(scene: &Scene, mut skip: impl FnMut(&Row, &str)) -> Result<Self> {
        let mut programs: BTreeMap<&str, Result<Client, String>> = BTreeMap::new();
        let mut rows = Vec::new();
        for row in &scene.rows {
            let made = programs
                .entry(row.client)
                .or_insert_with(|| clients::prepare(row.client).map_err(|why| format!("{why:#}")));
            match made {
                Ok(client) => rows.push((*row, client.clone())),
                Err(why) => skip(row, why),
            }
        }
        let mut lab = Lab::up_with(scene.setup)?;
        let mut cast = Vec::new();
        let mut specs = Vec::new();
        for (number, (row, client)) in (0u8..).zip(rows) {
            let host = FIRST_HOST.checked_add(number).context("too many rows in a scene")?;
            let incident = &row.incident;
            let mut spec = PodSpec::client(&format!("{}-{number:02}", row.client), host);
            spec.key = format!("r{number:02}");
            spec.labels.insert(LABEL.0.to_owned(), LABEL.1.to_owned());
            spec.resolv_conf = Some(format!(
                "search critical-app.svc.cluster.local svc.cluster.local cluster.local {}\nnameserver {}\noptions {}\n",
                incident.search, incident.nameserver, incident.options
            ));
            let typed = incident.name.replace("{}", &format!("{number:02}"));
            cast.push(Cast { row, pod: spec.name.clone(), typed, client, running: None });
            specs.push(spec);
        }
        lab.add_pods(&specs)?;
        for cast in &cast {
            if let Some(fault) = cast.row.incident.fault {
                fault.apply(&mut lab, &cast.pod)?;
            }
        }
        let (neighbour, resolver_dies_ms) = (scene.neighbour, scene.resolver_dies_ms);
        let mut stage = Self { lab, rows: cast, resolver_dies_ms, neighbour, flood: None };
        stage.start_older()?;
        Ok(stage)
    }

    fn start_older(&mut self) -> Result<()> {
        let older = |c: &&mut Cast| matches!(c.row.incident.how, How::Older | How::Asked);
        for cast in self.rows.iter_mut().filter(older) {
            let mut words = cast.client.words.clone();
            match cast.row.incident.how {
                How::Asked => words.push("ask".to_owned()),
                _ if cast.is_pool() => words.push("wait".to_owned()),
                _ => drop(words.splice(1..1, ["-c".to_owned(), WHEN_TOLD.to_owned()])),
            }
            cast.start(&self.lab, &words)?;
        }
        // Until they wait for their line.
        sleep(Duration::from_millis(500));
        Ok(())
    }

    /// Lets the clients do what they are for, to their ends.
    pub fn play(mut self) -> Result<(Lab, Vec<Ran>)> {
        if self.neighbour {
            self.flood = Some(crate::lab::incidents::flood(&self.lab)?);
        }
        let (healthy, sick): (Vec<_>, Vec<_>) = (0..self.rows.len())
            .partition(|n| self.rows.get(*n).is_some_and(|c| c.row.incident.is_healthy()));
        if let Some(after) = self.resolver_dies_ms {
            self.begin_all(healthy)?;
            sleep(HEALTHY_AFTER);
            self.begin_all(sick)?;
            sleep(Duration::from_millis(after));
            Fault::ResolverDown.apply(&self.lab)?;
        } else {
            self.begin_all(sick)?;
            sleep(HEALTHY_AFTER);
            self.begin_all(healthy)?;
        }
        let mut ran = Vec::new();
        for cast in std::mem::take(&mut self.rows) {
            ran.push(cast.end()?);
        }
        drop(self.flood);
        Ok((self.lab, ran))
    }

    fn begin_all(&mut self, numbers: Vec<usize>) -> Result<()> {
        numbers.into_iter().try_for_each(|number| self.begin(number))
    }

    fn begin(&mut self, number: usize) -> Result<()> {
        interrupt::check()?;
        let Some(cast) = self.rows.get_mut(number) else { return Ok(()) };
        match &mut cast.running {
            // Its standard input ends: that is the line it waits for.
            Some((_, input, _)) => drop(input.take()),
            None => {
                let words = cast.client.words.clone();
                cast.start(&self.lab, &words)?;
                sleep(APART);
            }
        }
        Ok(())
    }
}

impl Cast {
    fn is_pool(&self) -> bool {
        clients::POOLS.contains(&self.client.name)
    }

    fn start(&mut self, lab: &Lab, words: &[String]) -> Result<()> {
        let (program, args) = words.split_first().context("an empty client command")?;
        let pod = lab.pod(&self.pod)?;
        let mut command = match self.row.incident.how {
            How::HostNetwork => lab.command_on_node(pod, program)?,
            _ => lab.command(pod, program)?,
        };
        command.args(args).arg(&self.typed);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let input = child.stdin.take();
        self.running = Some((child, input, Instant::now()));
        Ok(())
    }

    fn end(mut self) -> Result<Ran> {
        let (mut child, input, begun) = self.running.take().context("a client did not begin")?;
        drop(input);
        // They print a line or two: their pipes hold it.
        while child.try_wait()?.is_none() {
            interrupt::check()?;
            if begun.elapsed() > PATIENCE {
                // It has not said how long it waited, which the caller hears.
                child.kill()?;
                break;
            }
            crate::lab::pause();
        }
        let output = child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let waited = Client::took(&self.typed, &stdout);
        let said = stdout + &stderr;
        Ok(Ran { row: self.row, pod: self.pod, typed: self.typed, waited, said })
    }
}
