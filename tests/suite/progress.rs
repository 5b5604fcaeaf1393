//! The bar of a long replay: on a terminal only, gone at the end, never inside a line.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use tests::binary;
use tests::capture;

use crate::scenarios;

/// Longer than a replay may take without a bar.
const LONG: Duration = Duration::from_millis(2_300);
/// What the bar says of input whose size nobody knows.
const BAR: &str = "reading ";

/// A terminal: our side, and the program's.
fn terminal() -> (File, OwnedFd) {
    let size = Winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    (pty.master.into(), pty.slave)
}

/// All that reaches our side, once the program has gone.
fn drain(mut ours: File) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        // Linux ends a terminal without another side with EIO.
        while let Ok(read @ 1..) = ours.read(&mut buffer) {
            all.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&all).into_owned()
    })
}

/// Replays a capture that stops in the middle for `LONG` through a pipe.
fn replay_slowly(mut command: Command) -> i32 {
    let bytes = capture::file(&scenarios::story(true), tracer::capture::Options::default());
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let mut running = command.stdin(Stdio::piped()).spawn().unwrap();
    drop(command); // our copies of the program's side
    let mut input = running.stdin.take().unwrap();
    input.write_all(first).unwrap();
    thread::sleep(LONG);
    input.write_all(rest).unwrap();
    drop(input);
    running.wait().unwrap().code().unwrap()
}

fn replay() -> Command {
    let mut command = binary::command(&["-r", "-", "--width=100", "--color=never"]);
    command.env("TERM", "xterm");
    command
}

#[test]
fn a_long_replay_shows_a_bar_above_which_the_lines_stay_whole() {
    let (ours, theirs) = terminal();
    let mut command = replay();
    command.stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let shown = drain(ours);
    assert_eq!(replay_slowly(command), 0);
    let shown = shown.join().unwrap();
    assert!(shown.contains(BAR), "{shown:?}");
    // What stays when the terminal has obeyed: every line is a line of the same replay without a bar.
    let plain = tests::run_default(&scenarios::story(true)).text;
    let left = screen(&shown);
    assert_eq!(left.trim_end(), plain.trim_end());
}

#[test]
fn no_bar_where_standard_error_is_no_terminal_or_quiet_is_asked_for() {
    let (ours, theirs) = terminal();
    let mut command = replay();
    command.stdout(theirs).stderr(Stdio::null());
    let shown = drain(ours);
    assert_eq!(replay_slowly(command), 0);
    let shown = shown.join().unwrap();
    assert!(!shown.contains(BAR) && !shown.contains('\x1b'), "{shown:?}");

    let (ours, theirs) = terminal();
    let mut command = replay();
    command.arg("--quiet").stdout(Stdio::null()).stderr(theirs);
    let shown = drain(ours);
    assert_eq!(replay_slowly(command), 0);
    assert_eq!(shown.join().unwrap(), "");
}

#[test]
fn nothing_of_a_bar_in_pipes() {
    let mut command = replay();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let bytes = capture::file(&scenarios::story(true), tracer::capture::Options::default());
    let mut running = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = running.stdin.take().unwrap();
    input.write_all(&bytes[..100]).unwrap();
    thread::sleep(LONG);
    input.write_all(&bytes[100..]).unwrap();
    drop(input);
    let output = running.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let plain = tests::run_default(&scenarios::story(true)).text;
    assert_eq!(String::from_utf8_lossy(&output.stdout), plain);
}

/// The text that stays on a terminal: carriage return, erase line, cursor up; other commands none.
fn screen(bytes: &str) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    let (mut row, mut column) = (0, 0);
    let mut chars = bytes.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(String::new());
                }
            }
            '\x1b' => {
                assert_eq!(chars.next(), Some('['), "only CSI");
                let mut number = String::new();
                while let Some(digit) =
                    chars.next_if(|c| c.is_ascii_digit() || *c == ';' || *c == '?')
                {
                    number.push(digit);
                }
                match chars.next() {
                    Some('K') => {
                        let keep = if number == "2" { 0 } else { column };
                        lines[row] = lines[row].chars().take(keep).collect();
                    }
                    Some('A') => row = row.saturating_sub(number.parse().unwrap_or(1)),
                    Some('B') => row = (row + number.parse().unwrap_or(1)).min(lines.len() - 1),
                    Some('G') => column = number.parse::<usize>().unwrap_or(1) - 1,
                    Some('J') => {
                        lines[row] = lines[row].chars().take(column).collect();
                        lines.truncate(row + 1);
                    }
                    Some('m' | 'h' | 'l') => {}
                    other => panic!("{other:?} after {number:?}"),
                }
            }
            c => {
                let mut line: Vec<char> = lines[row].chars().collect();
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                lines[row] = line.into_iter().collect();
                column += 1;
            }
        }
    }
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}
