//! What is typed or piped: a line, or a block of lines in `"""`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustyline::error::{ReadlineError, Signal};
use rustyline::{Config, DefaultEditor};

use crate::environment;
use crate::output::warn;

/// Begins and ends a message of several lines.
const QUOTES: &str = "\"\"\"";

/// Entries that the history keeps.
const HISTORY_LEN: usize = 1000;

/// What was read.
pub(super) enum Typed {
    /// One line, or a paste of several.
    Line(String),
    /// What stood between `"""`.
    Block(String),
    /// A block without its end.
    Unfinished,
    /// Ctrl-C; what was typed is dropped.
    Interrupted,
    /// No more input.
    EndOfInput,
}

/// One line, as far as it goes.
enum Line {
    Text(String),
    Interrupted,
    EndOfInput,
}

/// Where lines come from.
pub(super) enum Input {
    /// A terminal.
    Editor(Box<Editor>),
    /// A pipe, a file, or a terminal that can only print.
    Plain,
}

impl Input {
    /// Standard input. What is typed at a terminal is remembered in `state_dir`, if there is one.
    pub(super) fn open(state_dir: Option<PathBuf>) -> Self {
        let at_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        if !at_terminal || environment::is_plain_terminal() {
            return Self::Plain;
        }
        match Editor::open(state_dir) {
            Ok(editor) => Self::Editor(Box::new(editor)),
            Err(e) => {
                tracing::info!("lines cannot be edited: {e:#}");
                Self::Plain
            }
        }
    }

    pub(super) fn is_editor(&self) -> bool {
        matches!(self, Self::Editor(_))
    }

    /// Waits for the next line or block, which `prompt` asks for.
    pub(super) fn read(&mut self, prompt: &str) -> Result<Typed> {
        let mut text = match self.line(prompt)? {
            Line::Text(text) => text,
            Line::Interrupted => return Ok(Typed::Interrupted),
            Line::EndOfInput => return Ok(Typed::EndOfInput),
        };
        if !text.trim_start().starts_with(QUOTES) {
            self.remember(text.trim_end());
            return Ok(Typed::Line(text));
        }
        loop {
            if let Some(block) = block(&text) {
                self.remember(&text);
                return Ok(Typed::Block(block.to_owned()));
            }
            match self.line("... ")? {
                Line::Text(more) => text = text + "\n" + &more,
                Line::Interrupted => return Ok(Typed::Interrupted),
                Line::EndOfInput => return Ok(Typed::Unfinished),
            }
        }
    }

    fn line(&mut self, prompt: &str) -> Result<Line> {
        match self {
            Self::Editor(editor) => editor.line(prompt),
            Self::Plain => plain_line(prompt),
        }
    }

    fn remember(&mut self, text: &str) {
        if let Self::Editor(editor) = self {
            editor.remember(text);
        }
    }
}

/// What stands between the quotes, if they are closed.
fn block(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix(QUOTES)?.strip_suffix(QUOTES)?;
    let inner = inner.strip_prefix('\n').unwrap_or(inner);
    Some(inner.strip_suffix('\n').unwrap_or(inner))
}

/// A line as it is, bytes that are not UTF-8 as U+FFFD.
fn plain_line(prompt: &str) -> Result<Line> {
    let mut input = std::io::stdin().lock();
    if input.is_terminal() {
        let _ = write!(std::io::stderr(), "{prompt}");
    }
    let mut bytes = Vec::new();
    let length = input.read_until(b'\n', &mut bytes).context("cannot read standard input")?;
    if length == 0 {
        return Ok(Line::EndOfInput);
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Line::Text(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

/// A line editor with a history.
pub(super) struct Editor {
    inner: DefaultEditor,
    history: Option<PathBuf>,
    #[cfg(unix)]
    terminal: Option<std::sync::Arc<super::terminal::Terminal>>,
}

impl Editor {
    fn open(state_dir: Option<PathBuf>) -> Result<Self> {
        #[cfg(unix)]
        let terminal = super::terminal::Terminal::open()
            .inspect_err(|e| tracing::info!("bytes that are not UTF-8 cannot be typed here: {e}"))
            .ok();
        // As in a shell, a line that begins with a space is not remembered.
        let config = Config::builder().max_history_size(HISTORY_LEN)?.history_ignore_space(true).build();
        let mut editor = DefaultEditor::with_config(config)?;
        #[cfg(unix)]
        if let Some(terminal) = &terminal {
            super::terminal::bind_suspend(&mut editor, terminal);
        }
        let history = state_dir.and_then(|dir| load_history(&mut editor, &dir));
        Ok(Self {
            inner: editor,
            history,
            #[cfg(unix)]
            terminal,
        })
    }

    fn line(&mut self, prompt: &str) -> Result<Line> {
        #[cfg(unix)]
        let _raw = self.terminal.as_ref().map(|terminal| terminal.raw()).transpose()?;
        loop {
            return match self.inner.readline(prompt) {
                Ok(text) => Ok(Line::Text(text)),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::EndOfInput),
                Err(ReadlineError::Signal(Signal::Resize)) => continue,
                Err(ReadlineError::Io(e)) if e.kind() == std::io::ErrorKind::InvalidData => {
                    warn(format_args!("the line is not UTF-8 and was dropped"));
                    continue;
                }
                // The terminal is gone.
                #[cfg(unix)]
                Err(ReadlineError::Io(e))
                    if rustix::io::Errno::from_io_error(&e) == Some(rustix::io::Errno::IO) =>
                {
                    Ok(Line::EndOfInput)
                }
                Err(e) => Err(e).context("cannot read from the terminal"),
            };
        }
    }

    fn remember(&mut self, text: &str) {
        if !matches!(self.inner.add_history_entry(text), Ok(true)) {
            return;
        }
        if let Some(path) = &self.history
            && let Err(e) = self.inner.append_history(path)
        {
            tracing::info!("the history is not kept: {}: {e}", path.display());
            self.history = None;
        }
    }
}

#[cfg(unix)]
impl Drop for Editor {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            terminal.restore();
        }
    }
}

/// Loads the history of earlier sessions; the file that keeps it from now on, if one can.
fn load_history(editor: &mut DefaultEditor, dir: &Path) -> Option<PathBuf> {
    let path = dir.join("chat_history");
    let mut make_dir = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut make_dir, 0o700);
    let loaded = make_dir.recursive(true).create(dir).map_err(ReadlineError::from);
    let loaded = loaded.and_then(|()| match editor.load_history(&path) {
        Err(ReadlineError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    });
    match loaded {
        Ok(()) => Some(path),
        Err(e) => {
            tracing::info!("the history is not kept: {}: {e}", path.display());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::block;

    #[test]
    fn a_block_is_what_stands_between_the_quotes() {
        for (text, inside) in [
            ("\"\"\"a\nb\"\"\"", Some("a\nb")),
            ("\"\"\"\n  a\n\nb\n\"\"\"", Some("  a\n\nb")),
            (" \"\"\"say \"hi\"\"\"\" ", Some("say \"hi\"")),
            ("\"\"\"\"\"\"", Some("")),
            ("\"\"\"", None),
            ("\"\"\"a\n\"\"", None),
            ("\"\"\"a\"\"\" b", None),
        ] {
            assert_eq!(block(text), inside, "{text}");
        }
    }
}
