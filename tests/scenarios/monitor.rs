//! `callbox monitor`: in a terminal of its own, where somebody types, and as lines for a script.

use std::num::NonZero;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Daemon, Engine, Process, Setup, eventually, executable, scenario};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::PATIENCE;
use crate::callers::{ask, call, meanwhile, tone};
use crate::outbound::{SCRIPT, agent};

/// A program in a pseudo-terminal of 40 lines and 120 columns, and what a person sees of it.
struct Terminal {
    child: Child,
    seen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Runs the monitor; after its end the terminal says what became of its settings, which `stty` knows.
    fn monitor(daemon: &Daemon) -> anyhow::Result<Self> {
        let (program, config, pid) = (executable("callbox")?, daemon.config().display(), daemon.dir().join("pid"));
        let script = format!(
            "stty rows 40 cols 120; before=$(stty -g); \
             sh -c 'echo $$ >\"{}\"; exec \"{}\" monitor --config \"{config}\"'; status=$?; \
             [ \"$before\" = \"$(stty -g)\" ] && echo \"as before, $status\"; exit $status",
            pid.display(),
            program.display()
        );
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--flush", "--return", "--command", &script, "/dev/null"])
            .env("TERM", "xterm-256color");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("script(1) of bsdutils")?;
        let mut out = child.stdout.take().context("its output")?;
        let size = |size| NonZero::new(size).context("a size");
        let seen = Arc::new(Mutex::new(vt100::Parser::new(size(40)?, size(120)?, 0)));
        let parser = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut bytes).await {
                parser.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..count]);
            }
        });
        Ok(Self { child, seen })
    }

    fn screen(&self) -> vt100::Screen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).screen().clone()
    }

    /// Waits until all of these are on the screen.
    async fn shows(&self, words: &[&str]) -> anyhow::Result<()> {
        let probe = || async {
            let shown = self.screen().contents();
            words.iter().all(|word| shown.contains(word)).then_some(())
        };
        let shown = eventually("the screen", PATIENCE, probe).await;
        shown.with_context(|| format!("{words:?} are not all in:\n{}", self.screen().contents()))
    }

    async fn types(&mut self, keys: &str) -> anyhow::Result<()> {
        let keyboard = self.child.stdin.as_mut().context("a keyboard")?;
        keyboard.write_all(keys.as_bytes()).await?;
        Ok(keyboard.flush().await?)
    }

    /// Its end, with the terminal as it was before.
    async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("it did not end")??;
        self.shows(&["as before, "]).await?;
        let screen = self.screen();
        ensure!(!screen.alternate_screen() && !screen.hide_cursor(), "the terminal is not as it was");
        Ok(status)
    }
}

#[tokio::test]
async fn an_operator_watches_a_call_in_a_terminal_and_a_restart_of_the_daemon() -> anyhow::Result<()> {
    let setup = Setup { agent: agent("nobody", "bridge"), ..Setup::new(Engine::Scripted(SCRIPT)) };
    let mut daemon = Daemon::serve(setup).await?;
    let mut terminal = Terminal::monitor(&daemon)?;
    terminal
        .shows(&["Calls are answered.", "Ears ready", "Nobody is on the telephone.", "Calls that are up: 0"])
        .await?;
    let (sipp, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(20))).await?;
    ask(&mut rtp, tone(400.0, 0.6)).await?;
    let turn =
        ["Calls that are up: 1", "Caller  is there a garden", "Agent   There is.", "voice to voice", "first token"];
    meanwhile(&mut rtp, terminal.shows(&turn)).await?;
    terminal.types("x").await?;
    meanwhile(&mut rtp, terminal.shows(&["y yes, any other key no"])).await?;
    terminal.types("n").await?;
    meanwhile(&mut rtp, terminal.shows(&["Not hung up."])).await?;
    // The next daemon goes on with the call; the monitor says that one was away, and knows what was said.
    daemon.restart().await?;
    meanwhile(&mut rtp, terminal.shows(&["The live view is back after"])).await?;
    meanwhile(&mut rtp, terminal.shows(&turn)).await?;
    daemon.ready().await?;
    meanwhile(&mut rtp, sipp.done(PATIENCE)).await?;
    terminal.shows(&["The call has ended: caller_hangup.", "Calls that are up: 0"]).await?;
    terminal.types("q").await?;
    ensure!(terminal.ended().await?.success(), "q is no failure");

    let terminal = Terminal::monitor(&daemon)?;
    terminal.shows(&["Nobody is on the telephone."]).await?;
    let pid = std::fs::read_to_string(daemon.dir().join("pid"))?.trim().parse().ok();
    kill_process(pid.and_then(Pid::from_raw).context("a process id")?, Signal::TERM)?;
    ensure!(terminal.ended().await?.success(), "SIGTERM is no failure");
    Ok(())
}

/// Every line, as an object.
fn events(text: &str) -> anyhow::Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["event"].as_str()).collect()
}

#[tokio::test]
async fn a_script_reads_a_call_line_by_line() -> anyhow::Result<()> {
    let setup = Setup { agent: agent("nobody", "bridge"), ..Setup::new(Engine::Scripted(SCRIPT)) };
    let daemon = Daemon::start(setup).await?;
    let monitor = |more: &[&str]| -> anyhow::Result<Command> {
        let mut command = Command::new(executable("callbox")?);
        command.arg("monitor").args(more).arg("--config").arg(daemon.config());
        Ok(command)
    };
    let refused = monitor(&[])?.output().await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("`callbox monitor --json`"), "{said}");

    let mut all = Process::start("monitor", &mut monitor(&["--json"])?, &daemon.dir().join("all"))?;
    eventually("the list", PATIENCE, || async { all.log().contains("snapshot").then_some(()) }).await?;
    let (sipp, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(6))).await?;
    let id = daemon.api("/api/v1/calls").await?["calls"][0]["id"].as_str().context("a call")?.to_owned();
    let mut one = Process::start("monitor", &mut monitor(&["--json", "--call", &id])?, &daemon.dir().join("one"))?;
    ask(&mut rtp, tone(400.0, 0.6)).await?;
    meanwhile(&mut rtp, sipp.done(PATIENCE)).await?;
    // That of one call ends with it.
    ensure!(one.ended(PATIENCE).await?.success(), "{}", one.log());
    let told = events(&one.log())?;
    ensure!(names(&told).first() == Some(&"snapshot") && names(&told).last() == Some(&"call_ended"), "{told:?}");
    ensure!(told.iter().skip(1).all(|event| event["call"] == *id), "{told:?}");

    eventually("the end", PATIENCE, || async { all.log().contains("call_ended").then_some(()) }).await?;
    kill_process(all.pid().context("it runs")?, Signal::INT)?;
    ensure!(all.ended(PATIENCE).await?.success(), "{}", all.log());
    let told = events(&all.log())?;
    let mut names = names(&told).into_iter();
    for name in ["snapshot", "call_started", "caller_said", "agent_says", "end_of_turn", "turn_ended", "call_ended"] {
        ensure!(names.any(|told| told == name), "no {name}, or not in this order: {told:?}");
    }
    let turn = told.iter().find(|event| event["event"] == "turn_ended" && event["caller_text"] == "is there a garden");
    ensure!(turn.is_some_and(|turn| turn["timings_us"]["voice_to_voice"].is_u64()), "{told:?}");
    // Nobody reads any more, and nothing happens that could be written.
    let pipe = format!(
        "'{}' monitor --json --config '{}' | head -n 1; echo ${{PIPESTATUS[0]}}",
        executable("callbox")?.display(),
        daemon.config().display()
    );
    let piped = tokio::time::timeout(PATIENCE, Command::new("bash").args(["-c", &pipe]).output()).await??;
    let said = String::from_utf8_lossy(&piped.stdout).into_owned();
    ensure!(said.contains("\"snapshot\"") && said.ends_with("\n0\n") && piped.stderr.is_empty(), "{said}");
    Ok(())
}
