//! A program that turns a line into lines, kept running: how it is started, asked and got rid of. Never here: what its lines
//! mean.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::espeak::EspeakError;

/// A running program; dropped, it is ended.
pub(super) struct Child {
    process: Process,
    input: ChildStdin,
    lines: Receiver<String>,
}

const PATIENCE: Duration = Duration::from_secs(3);

impl Child {
    pub(super) fn start(program: &Path, arguments: &[&str]) -> Result<Self, EspeakError> {
        let fault = |source| EspeakError::Missing { program: program.display().to_string(), source };
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fault)?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(EspeakError::Dead);
        };
        let (send, lines) = bounded(64);
        std::thread::Builder::new()
            .name("phonemes".into())
            .spawn(move || {
                // Ends when the process does, or when nobody wants its lines any more.
                for line in BufReader::new(output).lines() {
                    let Ok(line) = line else { break };
                    if send.send(line).is_err() {
                        break;
                    }
                }
            })
            .map_err(fault)?;
        Ok(Self { process, input, lines })
    }

    pub(super) fn write(&mut self, text: &str) -> Result<(), EspeakError> {
        self.input.write_all(text.as_bytes()).and_then(|()| self.input.flush()).map_err(|_| EspeakError::Dead)
    }

    /// The next line, without the space around it.
    pub(super) fn read(&mut self) -> Result<String, EspeakError> {
        let line = self.lines.recv_timeout(PATIENCE).map_err(|_| EspeakError::Dead)?;
        Ok(line.trim().to_owned())
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may be dead already; either way it is to be gone and waited for.
        if self.process.kill().is_err() || self.process.wait().is_err() {
            tracing::debug!("a program for phonemes was gone already");
        }
    }
}
