//! A terminal for the line editor that holds UTF-8 only.
//!
//! rustyline gives up a line, and what was typed after it, at the first byte that is not UTF-8. So
//! it is given a terminal of its own, a pseudo-terminal in the place of standard input, and a
//! thread hands over what is typed:
//!
//! ```text
//! keyboard -> terminal -> thread: other bytes become U+FFFD -> pseudo-terminal -> rustyline
//! ```
//!
//! The pseudo-terminal only carries bytes. The terminal itself is raw while a line is edited; in
//! between it is as it was found, so that Ctrl-C is a signal and what is typed ahead is shown, but
//! for one thing: Ctrl-D is a byte like others. As the end of input it would become a NUL where the
//! terminal is made raw before it is read.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use rustyline::{
    Cmd, ConditionalEventHandler, DefaultEditor, Event, EventContext, EventHandler, KeyEvent, RepeatCount,
};

use signal_hook::consts::{SIGHUP, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::interrupt;

/// Ctrl-D. Typed before the chat took the terminal, it is a read of nothing.
const END: u8 = 4;

/// In the place of a special character: there is none (`_POSIX_VDISABLE`).
const DISABLED: u8 = if cfg!(target_os = "linux") { 0 } else { 0xff };

/// What was standard input.
pub(super) struct Terminal {
    fd: OwnedFd,
    /// As it was found.
    found: Termios,
    /// While no line is edited.
    between: Termios,
    raw: Termios,
}

impl Terminal {
    /// Takes the place of standard input, for good.
    pub(super) fn open() -> std::io::Result<Arc<Self>> {
        let fd = rustix::io::dup(std::io::stdin())?;
        let found = tcgetattr(&fd)?;
        let mut between = found.clone();
        between.special_codes[SpecialCodeIndex::VEOF] = DISABLED;
        let mut raw = found.clone();
        raw.make_raw();
        // The same terminal prints.
        raw.output_modes = found.output_modes;
        let keyboard = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::pty::grantpt(&keyboard)?;
        rustix::pty::unlockpt(&keyboard)?;
        let name = rustix::pty::ptsname(&keyboard, Vec::new())?;
        let input = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        let mut carries = tcgetattr(&input)?;
        carries.make_raw();
        tcsetattr(&input, OptionalActions::Now, &carries)?;
        tcsetattr(&fd, OptionalActions::Now, &between)?;
        rustix::stdio::dup2_stdin(&input)?;
        let terminal = Arc::new(Self { fd, found, between, raw });
        let left = Arc::clone(&terminal);
        interrupt::before_exit(move || left.restore());
        terminal.restore_where_a_signal_ends()?;
        let typed = Arc::clone(&terminal);
        std::thread::spawn(move || typed.hand_over(File::from(keyboard)));
        Ok(terminal)
    }

    /// Makes the terminal raw until the guard is dropped.
    pub(super) fn raw(&self) -> rustix::io::Result<Raw<'_>> {
        tcsetattr(&self.fd, OptionalActions::Now, &self.raw)?;
        Ok(Raw(self))
    }

    /// Leaves the terminal as it was found.
    pub(super) fn restore(&self) {
        self.set(&self.found);
    }

    /// Has a signal that ends the process do so only after the terminal is as it was found.
    fn restore_where_a_signal_ends(self: &Arc<Self>) -> std::io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGHUP, SIGQUIT])?;
        let terminal = Arc::clone(self);
        std::thread::spawn(move || {
            for signal in signals.forever() {
                terminal.restore();
                // The line editor asks for marked pastes. Not by `std::io::stdout`, which an answer
                // may have locked.
                let _ = rustix::io::write(rustix::stdio::stdout(), b"\x1b[?2004l\n");
                let _ = emulate_default_handler(signal);
            }
        });
        Ok(())
    }

    fn set(&self, modes: &Termios) {
        // A terminal that is gone needs no more.
        let _ = tcsetattr(&self.fd, OptionalActions::Now, modes);
    }

    /// Hands over what is typed, until the terminal or its reader is gone.
    fn hand_over(&self, mut keyboard: File) {
        let (mut pending, mut buffer) = (Vec::new(), [0; 1024]);
        loop {
            let written = match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) if tcgetattr(&self.fd).is_ok() => keyboard.write_all(&[END]),
                Ok(0) => return,
                Ok(length) => {
                    pending.extend_from_slice(&buffer[..length]);
                    keyboard.write_all(whole_characters(&mut pending).as_bytes())
                }
                Err(Errno::INTR | Errno::AGAIN) => Ok(()),
                Err(_) => return,
            };
            if written.is_err() {
                return;
            }
        }
    }
}

/// Takes all but the beginning of a character at the end; what is no character becomes U+FFFD.
fn whole_characters(pending: &mut Vec<u8>) -> String {
    let (mut text, mut taken) = (String::new(), 0);
    for chunk in pending.utf8_chunks() {
        text += chunk.valid();
        taken += chunk.valid().len();
        let rest = chunk.invalid();
        let is_beginning = std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_none());
        if is_beginning && taken + rest.len() == pending.len() {
            break;
        }
        if !rest.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            taken += rest.len();
        }
    }
    pending.drain(..taken);
    text
}

/// The terminal, raw.
pub(super) struct Raw<'a>(&'a Terminal);

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        self.0.set(&self.0.between);
    }
}

/// Ctrl-Z at the prompt: the shell is to find the terminal as it was.
struct Suspend(Arc<Terminal>);

impl ConditionalEventHandler for Suspend {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext) -> Option<Cmd> {
        self.0.restore();
        let _ = rustix::process::kill_current_process_group(Signal::TSTP);
        self.0.set(&self.0.raw);
        Some(Cmd::Repaint)
    }
}

pub(super) fn bind_suspend(editor: &mut DefaultEditor, terminal: &Arc<Terminal>) {
    let handler = EventHandler::Conditional(Box::new(Suspend(Arc::clone(terminal))));
    editor.bind_sequence(KeyEvent::ctrl('Z'), handler);
}

#[cfg(test)]
mod tests {
    use super::whole_characters;

    #[test]
    fn bytes_become_characters_however_they_are_cut() {
        let bytes = b"a\xc3\xa9\xff\xe2\x82 \xf0\x9f\x98\x80\xe9\r\xc3";
        for cut in 0..=bytes.len() {
            let (mut pending, mut text) = (Vec::new(), String::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                pending.extend_from_slice(part);
                text += &whole_characters(&mut pending);
            }
            assert_eq!(text, "aé\u{fffd}\u{fffd} 😀\u{fffd}\r", "{cut}");
            // The beginning of a character waits for its end.
            assert_eq!(pending, [0xc3]);
        }
    }
}
