//! A child process that is confined as the pipeline process is, and tries things.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::*;

/// What `work` says in a process of its own; an empty text is success.
fn in_child(work: impl FnOnce() -> Result<(), String>) {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    // SAFETY: the child uses no lock that another thread may hold but the allocator's, which is made
    // for that, and ends without unwinding into the test.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(ours);
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let said = said.unwrap_or_else(|_| Err("panicked".to_owned()));
            let _ = theirs.write_all(said.err().unwrap_or_default().as_bytes());
            // SAFETY: ends this process, now.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let mut said = String::new();
            ours.read_to_string(&mut said).unwrap();
            let ended = waitpid(child, None).unwrap();
            assert_eq!(ended, WaitStatus::Exited(child, 0), "{said}");
            assert_eq!(said, "");
        }
    }
}

fn root() -> bool {
    Uid::effective().is_root()
}

fn somebody() -> Option<User> {
    root().then_some(User { uid: 4_242, gid: 4_243 })
}

/// Results by name of what must fail with EPERM or EACCES.
fn all_refused(tries: Vec<(&str, Result<(), i32>)>) -> Result<(), String> {
    let refused = |result: &Result<(), i32>| matches!(result, Err(libc::EPERM | libc::EACCES));
    let wrong: Vec<_> = tries.iter().filter(|(_, result)| !refused(result)).collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}")) }
}

fn said<T>(result: io::Result<T>) -> Result<(), i32> {
    result.map(drop).map_err(|error| error.raw_os_error().unwrap_or(-1))
}

/// A system call by number.
fn call(number: libc::c_long, arguments: [libc::c_long; 6]) -> Result<(), i32> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the callers pass numbers, null or pointers that live on.
    said(checked(unsafe { libc::syscall(number, a, b, c, d, e, f) }))
}

#[test]
fn what_it_must_not_do_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("there");
    File::create(&path).unwrap();
    // SAFETY: takes numbers and gives a descriptor or an error.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    let parent = i64::from(std::process::id());
    let shell = CString::new("/bin/sh").unwrap();
    in_child(move || {
        confine(Mode::Strict, somebody()).map_err(|error| error.to_string())?;
        let null = [0; 6];
        let name = |n: libc::c_long| call(n, null);
        let code = libc::PROT_READ | libc::PROT_EXEC;
        let pages = [0, 4096, code.into(), (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into(), -1, 0];
        let shell = shell.as_ptr() as libc::c_long;
        // SAFETY: plain old data of which the kernel reads what the length says.
        let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        to.sin_family = libc::AF_INET as u16;
        to.sin_port = address.port().to_be();
        to.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let to = [socket.into(), &raw const to as libc::c_long, 16, 0, 0, 0];
        all_refused(vec![
            ("open", said(File::open("/etc/passwd"))),
            ("openat2", call(libc::SYS_openat2, [-100, shell, 0, 0, 0, 0])),
            ("open by handle", name(libc::SYS_open_by_handle_at)),
            ("create", said(File::create(folder.path().join("new")))),
            ("remove", said(std::fs::remove_file(&path))),
            ("stat", said(std::fs::metadata(&path))),
            ("folder", said(std::fs::read_dir("/"))),
            ("socket", said(TcpStream::connect(address))),
            ("datagram", said(UdpSocket::bind("127.0.0.1:0"))),
            ("unix", said(UnixDatagram::unbound())),
            ("connect", call(libc::SYS_connect, to)),
            ("bind", call(libc::SYS_bind, to)),
            ("fork", call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0, 0])),
            ("thread", said(std::thread::Builder::new().spawn(|| ()))),
            ("exec", call(libc::SYS_execve, [shell, 0, 0, 0, 0, 0])),
            ("ptrace", call(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), parent, 0, 0, 0, 0])),
            ("memory", name(libc::SYS_process_vm_readv)),
            ("signal", call(libc::SYS_kill, [parent, 0, 0, 0, 0, 0])),
            ("signal of thread", call(libc::SYS_tgkill, [parent, parent, 0, 0, 0, 0])),
            ("code", call(libc::SYS_mmap, pages)),
            ("terminal", call(libc::SYS_ioctl, [0, libc::TIOCSTI as _, shell, 0, 0, 0])),
            ("bpf", name(libc::SYS_bpf)),
            ("perf", name(libc::SYS_perf_event_open)),
            ("uring", name(libc::SYS_io_uring_setup)),
            ("namespace", name(libc::SYS_unshare)),
            ("mount", name(libc::SYS_mount)),
            ("module", name(libc::SYS_init_module)),
            ("keys", name(libc::SYS_keyctl)),
            ("user", name(libc::SYS_setuid)),
            ("dumpable", call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0])),
        ])
    });
}

#[test]
fn what_it_must_do_goes_on() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"before").unwrap();
    let (mut here, there) = UnixStream::pair().unwrap();
    in_child(move || {
        confine(Mode::Strict, somebody()).map_err(|error| error.to_string())?;
        let work = || -> io::Result<()> {
            let mut text = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut text)?;
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&text)?;
            file.sync_all()?;
            there.set_nonblocking(true)?;
            here.write_all(&text)?;
            (&there).read_exact(&mut text)?;
            let much = vec![7_u8; 64 << 20];
            std::thread::sleep(std::time::Duration::from_millis(1));
            let mut fds = [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(&there),
                nix::poll::PollFlags::POLLOUT,
            )];
            nix::poll::poll(&mut fds, 100_u16)?;
            let random: std::collections::HashMap<u8, u8> = [(much[1 << 20], 1)].into();
            assert_eq!((text.as_slice(), random.len()), (b"before".as_slice(), 1));
            let _ = io::IsTerminal::is_terminal(&io::stderr());
            drop(there);
            Ok(())
        };
        work().map_err(|error| error.to_string())
    });
}

/// Each wall holds by itself.
#[test]
fn landlock_alone_keeps_files_away() {
    in_child(|| {
        prctl::set_no_new_privs().map_err(|error| error.to_string())?;
        match landlocked::restrict() {
            Err(why) => {
                println!("skipped: {why}");
                Ok(())
            }
            Ok(words) => {
                let mut tries = vec![("open", said(File::open("/etc/passwd")))];
                if words.contains("TCP") {
                    tries.push(("bind", said(TcpListener::bind("127.0.0.1:0"))));
                }
                all_refused(tries)
            }
        }
    });
}

#[test]
fn no_capability_and_no_way_back() {
    in_child(|| {
        let had = capabilities::permitted().map_err(|error| error.to_string())?;
        let bounded = capabilities::bound(0);
        become_user(somebody())?;
        no_capability(bounded, capabilities::clear_ambient())?;
        no_new_privileges()?;
        let (real, effective) = (Uid::current(), Uid::effective());
        if had != 0 && (real.as_raw(), effective.as_raw()) != (4_242, 4_242) {
            return Err(format!("{real} {effective}"));
        }
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let sets = status.lines().filter(|line| line.starts_with("Cap"));
        let wrong: Vec<_> =
            sets.filter(|set| had != 0 && !set.ends_with("0000000000000000")).collect();
        if !wrong.is_empty() || !status.contains("NoNewPrivs:\t1") {
            return Err(format!("{wrong:?} {status}"));
        }
        let back = said(
            setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).map_err(Into::into),
        );
        if had != 0 { all_refused(vec![("root again", back)]) } else { Ok(()) }
    });
}

#[test]
fn the_agent_keeps_what_it_names() {
    if !root() {
        return;
    }
    in_child(|| {
        let kept = [capabilities::BPF, capabilities::KILL];
        let confined = keep(Mode::Auto, &kept).map_err(|error| error.to_string())?;
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let left = capabilities::permitted().map_err(|error| error.to_string())?;
        let in_words = confined.to_string().contains("capabilities KILL BPF");
        let whole = status.contains("CapEff:\t0000008000000020")
            && status.contains("CapBnd:\t0000008000000020");
        match left == capabilities::mask(&kept) && in_words && whole {
            true => Ok(()),
            false => Err(format!("{left:x} {confined} {status}")),
        }
    });
}

#[test]
fn off_is_off_and_strict_refuses() {
    assert_eq!(confine(Mode::Off, None).unwrap(), Confined::default());
    let lacking = Confined { in_force: vec![], lacking: vec!["Landlock (x)".to_owned()] };
    assert_eq!(
        lacking.clone().judged(Mode::Auto).unwrap().to_string(),
        "off; not in force: Landlock (x)"
    );
    let refused = lacking.judged(Mode::Strict).unwrap_err().to_string();
    assert!(refused.contains("Landlock (x)"), "{refused}");
    if root() {
        // Root that may become nobody else stays root: that is no sandbox.
        in_child(|| match confine(Mode::Strict, None) {
            Err(Refused(why)) if why.len() == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    assert_eq!("strict".parse(), Ok(Mode::Strict));
    assert!("".parse::<Mode>().is_err() && "5:x".parse::<User>().is_err());
    assert_eq!("5:6".parse(), Ok(User { uid: 5, gid: 6 }));
}
