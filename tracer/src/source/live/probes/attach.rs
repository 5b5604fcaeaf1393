//! Loading programs and attaching one, by the kind of its hook.

use std::{any::Any, collections::HashMap, fs::File, io, panic::resume_unwind, thread};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program,
        ProgramError, SockOps, SocketFilter, TracePoint,
    },
};

use super::table::{Hook, Probe};

/// Most threads that load.
const WORKERS_MAX: usize = 4;

fn program_of<'a, T>(ebpf: &'a mut Ebpf, probe: &Probe) -> Result<&'a mut T, ProgramError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(probe.program).ok_or(ProgramError::NotLoaded)?.try_into()
}

/// Loads the programs, several at a time: most of it is the kernel's verifier at work.
pub(super) fn load_programs(
    ebpf: &mut Ebpf,
    probes: &[Probe],
) -> Vec<(Probe, Result<(), ProgramError>)> {
    let mut programs: HashMap<String, &mut Program> =
        ebpf.programs_mut().map(|(name, program)| (name.to_owned(), program)).collect();
    let workers = thread::available_parallelism().map_or(1, |count| count.get().min(WORKERS_MAX));
    let mut shares: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (n, probe) in probes.iter().enumerate() {
        // Neighbours in the table cost alike.
        shares[n % workers].push((n, probe, programs.remove(probe.program)));
    }
    let load_share = |share: Vec<(usize, &Probe, Option<&mut Program>)>| {
        let results = share.into_iter().map(|(n, probe, program)| {
            let result = program.map_or(Err(ProgramError::NotLoaded), |at| load(at, probe));
            (n, *probe, result)
        });
        results.collect::<Vec<_>>()
    };
    let mut all = thread::scope(|scope| {
        let threads: Vec<_> =
            shares.into_iter().map(|share| scope.spawn(move || load_share(share))).collect();
        let results =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|at| resume_unwind(at)));
        results.flatten().collect::<Vec<_>>()
    });
    all.sort_unstable_by_key(|(n, ..)| *n);
    all.into_iter().map(|(_, probe, result)| (probe, result)).collect()
}

fn load(program: &mut Program, probe: &Probe) -> Result<(), ProgramError> {
    fn of<'a, T>(program: &'a mut Program) -> Result<&'a mut T, ProgramError>
    where
        &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        program.try_into()
    }
    match probe.hook {
        Hook::SocketAddress => of::<CgroupSockAddr>(program)?.load(),
        Hook::SocketRelease => of::<CgroupSock>(program)?.load(),
        Hook::Ingress | Hook::Egress => of::<CgroupSkb>(program)?.load(),
        Hook::SocketOps => of::<SockOps>(program)?.load(),
        Hook::SocketFilter => of::<SocketFilter>(program)?.load(),
        Hook::Tracepoint(..) => of::<TracePoint>(program)?.load(),
    }
}

/// The link's owner; mode Single, because links of several programs share a cgroup anyway and the
/// kernel refuses other flags for links.
pub(super) fn attach_program(
    ebpf: &mut Ebpf,
    probe: &Probe,
    cgroup: Option<&File>,
) -> Result<Box<dyn Any + Send>, ProgramError> {
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    let cgroup =
        || cgroup.ok_or_else(|| ProgramError::IOError(io::Error::other("no cgroup to attach to")));
    Ok(match probe.hook {
        Hook::SocketAddress => {
            let program: &mut CgroupSockAddr = program_of(ebpf, probe)?;
            let id = program.attach(cgroup()?, MODE)?;
            Box::new(program.take_link(id)?)
        }
        Hook::SocketRelease => {
            let program: &mut CgroupSock = program_of(ebpf, probe)?;
            let id = program.attach(cgroup()?, MODE)?;
            Box::new(program.take_link(id)?)
        }
        Hook::Ingress | Hook::Egress => {
            let program: &mut CgroupSkb = program_of(ebpf, probe)?;
            let direction = if probe.hook == Hook::Ingress {
                CgroupSkbAttachType::Ingress
            } else {
                CgroupSkbAttachType::Egress
            };
            let id = program.attach(cgroup()?, direction, MODE)?;
            Box::new(program.take_link(id)?)
        }
        Hook::SocketOps => {
            let program: &mut SockOps = program_of(ebpf, probe)?;
            let id = program.attach(cgroup()?, MODE)?;
            Box::new(program.take_link(id)?)
        }
        Hook::SocketFilter => {
            return Err(ProgramError::IOError(io::Error::other("it goes to a socket")));
        }
        Hook::Tracepoint(category, name) => {
            let program: &mut TracePoint = program_of(ebpf, probe)?;
            let id = program.attach(category, name)?;
            Box::new(program.take_link(id)?)
        }
    })
}
