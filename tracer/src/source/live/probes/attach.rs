//! Loading and attaching one program, by the kind of its hook.

use std::{any::Any, fs::File, io};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, ProgramError,
        SockOps, TracePoint,
    },
};

use super::table::{Hook, Probe};

fn program_of<'a, T>(ebpf: &'a mut Ebpf, probe: &Probe) -> Result<&'a mut T, ProgramError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(probe.program).ok_or(ProgramError::NotLoaded)?.try_into()
}

pub(super) fn load_program(ebpf: &mut Ebpf, probe: &Probe) -> Result<(), ProgramError> {
    match probe.hook {
        Hook::SocketAddress => program_of::<CgroupSockAddr>(ebpf, probe)?.load(),
        Hook::SocketRelease => program_of::<CgroupSock>(ebpf, probe)?.load(),
        Hook::Ingress | Hook::Egress => program_of::<CgroupSkb>(ebpf, probe)?.load(),
        Hook::SocketOps => program_of::<SockOps>(ebpf, probe)?.load(),
        Hook::Tracepoint(..) => program_of::<TracePoint>(ebpf, probe)?.load(),
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
        Hook::Tracepoint(category, name) => {
            let program: &mut TracePoint = program_of(ebpf, probe)?;
            let id = program.attach(category, name)?;
            Box::new(program.take_link(id)?)
        }
    })
}
